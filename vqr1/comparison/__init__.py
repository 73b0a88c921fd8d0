"""Scores from comparisons: what a policy says of two pictures, and the scores that follow from many such answers.

`words` is one comparison, `scores` all comparisons among many pictures, `anchors` one picture against a few fixed ones.
Numbers in, numbers out. Compare2Score is Zhu and others, "Adaptive image quality assessment via teaching large
multimodal model to compare" (arXiv 2405.19298).
"""
