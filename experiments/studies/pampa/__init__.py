"""Molecule case study of arXiv 2505.18601: `python -m flex_judge.experiments.studies.pampa`.

It also runs on other tables with SMILES and classes.
"""
