"""Images, video, audio and molecules as bytes with a content hash; opening and checking them.

May import errors only; scaling for a model is in `flex_judge.judges.models.inputs`.
"""
