"""`python -m flex_judge.experiments.studies.pampa`: the paper's case study of molecules, and other tables with
SMILES and classes.
"""
