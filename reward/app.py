"""Import path of the Ray Serve application: `serve run flex_judge.reward.app:build model=... replicas=2`."""

from flex_judge.reward.serving.service import application, build

__all__ = ["application", "build"]
