"""What holds for all unit tests."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a slow machine is no finding
settings.load_profile("untimed")
