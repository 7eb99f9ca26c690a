"""Judge two answers to a question about an image.

Shows that images are paths, bytes, data URIs or PIL images. The default judge needs a GPU; any Qwen2.5-VL or
Qwen2.5-Omni checkpoint works, and a tiny one runs on a CPU.
"""

import argparse

from PIL import Image, ImageDraw

from flex_judge import Comparison, FlexJudge

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", default="jongwooko/Flex-VL-7B", help="checkpoint that takes images")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    parser.add_argument("--max-think-tokens", type=int, default=2048)
    parser.add_argument("--image", help="image file (default: a red circle on white)")
    options = parser.parse_args()

    picture = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(picture).ellipse((48, 48, 176, 176), fill="red")
    judge = FlexJudge.from_pretrained(options.judge, options.engine, max_think_tokens=options.max_think_tokens)
    comparison = Comparison.of(
        "What is in the picture?", "A red circle.", "Two blue squares.", images=[options.image or picture]
    )
    (judgment,) = judge.judge([comparison])
    print(f"{judgment.status}: scores {judgment.scores}, preferred {judgment.preferred}\n{judgment.reasoning}")
    judge.close()
