"""The ledger of generations, the engine that records to it, and the engine that replays it.

May import the engine seam only; no model library.
"""
