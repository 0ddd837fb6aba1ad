"""Imagegram: can n-gram statistics over image tokens generate images?"""
