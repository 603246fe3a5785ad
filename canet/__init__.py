"""CANet (Context-Aware Network, Hou et al. 2023) for defect detection: the network and nothing else.

Importing the package or `canet.config` does not import torch.
"""
