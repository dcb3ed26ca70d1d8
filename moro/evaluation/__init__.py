"""Evaluation on EgoBody, RICH and PROX by the published protocols (spec: data 8)."""
