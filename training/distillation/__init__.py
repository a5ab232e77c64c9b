"""Distillation: the image encoder of a network without pretrained weights learns the embeddings of a larger one."""
