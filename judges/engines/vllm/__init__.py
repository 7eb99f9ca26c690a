"""The vLLM engine, its CPU worker, its inputs, and the cleanup of its processes.

The only room that imports vllm.
"""
