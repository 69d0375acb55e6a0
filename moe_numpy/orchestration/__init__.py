"""Queries sent to specialists: routing between models, not a mixture of experts inside one.

In a Mixture of Experts a router inside the network sends each token to experts that are trained together with it. Here
a classifier in front reads a whole query, once, and sends it to one of several separate models or tools.
"""
