from bias_clip.data.sources.registry import SOURCES, Record, Source, column, make_source

__all__ = ["SOURCES", "Record", "Source", "column", "make_source"]
