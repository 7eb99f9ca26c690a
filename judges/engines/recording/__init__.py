"""Ledger of generations, the engine that records to it, and the engine that replays it.

May import the engine base class, media and model profiles; no model library.
"""
