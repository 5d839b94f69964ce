"""Guarded: an array over the display's pixels is kept over a change of the window's size.

pip install pygame numpy
"""

import os

os.environ.update(SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy", PYGAME_HIDE_SUPPORT_PROMPT="1")

import pygame

from lifecycle import HeldError, SafetyManager

manager = SafetyManager()

pygame.display.init()
screen = pygame.display.set_mode((1000, 1000))
display = manager.register(screen, "display", release=None)
pixels = display.array(pygame.surfarray.pixels3d(screen))
pixels[:] = 7
print(pixels[500, 500], flush=True)
try:
    display.close(held="refuse")
    pygame.display.set_mode((2000, 2000))
except HeldError as error:
    print(error)
print(pixels[500, 500])
del pixels  # the last that held it: it is released now
