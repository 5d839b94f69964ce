"""An array over the display's pixels is kept over a change of the window's size.

pip install pygame numpy
"""

import os

os.environ.update(SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy", PYGAME_HIDE_SUPPORT_PROMPT="1")

import pygame

pygame.display.init()
screen = pygame.display.set_mode((1000, 1000))
pixels = pygame.surfarray.pixels3d(screen)
pixels[:] = 7
print(pixels[500, 500], flush=True)
pygame.display.set_mode((2000, 2000))
pygame.display.quit()
print(pixels[500, 500])
