from bias_clip.data.emoji.source import PACK, emoji_roles, emoji_source, emoji_twins

__all__ = ["PACK", "emoji_roles", "emoji_source", "emoji_twins"]
