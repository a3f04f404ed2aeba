from bias_clip.data.image.ops import (
    OPS,
    ImageFn,
    PixelRange,
    decode,
    encode_png,
    make_image_fn,
    make_pixel_fn,
    read_ops,
)

__all__ = [
    "OPS",
    "ImageFn",
    "PixelRange",
    "decode",
    "encode_png",
    "make_image_fn",
    "make_pixel_fn",
    "read_ops",
]
