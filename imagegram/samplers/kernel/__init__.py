# of the sampler and of its fits: one more with every change of the code that changes them
VERSION = 11
