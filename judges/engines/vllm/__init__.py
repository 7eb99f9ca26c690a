"""vLLM engine: CPU worker, model inputs and process cleanup.

The only package that imports vllm.
"""
