"""Judgments as rewards, at scale: the Ray Serve application, scoring, adapters to trainers."""
