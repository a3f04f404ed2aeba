from bias_clip.data.stream.balanced import make_plan
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.stream.plan import plain_plan

__all__ = ["make_plan", "make_train_iterator", "plain_plan"]
