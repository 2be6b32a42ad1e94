"""Where models come from, one family a file; `vlm.factory` asks the families in turn.

A new family is a new file here that defines a `Loader` under `@register_loader`; nothing else is
edited. See `base` for what a loader does. `open_clip_hub` is no family: `open_clip_names` uses it.
"""
