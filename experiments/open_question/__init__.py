"""The open question of the paper: can a linearized CNN compete with fixed representations?"""
