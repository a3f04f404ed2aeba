from bias_clip.pretrained.load import Loaded as Loaded
from bias_clip.pretrained.load import inspect_pretrained as inspect_pretrained
from bias_clip.pretrained.load import load_pretrained as load_pretrained
