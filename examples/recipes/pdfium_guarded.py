"""Guarded: a bitmap in PDFium's own memory is closed as one closes everything; the array over it stays.

pip install pypdfium2 numpy
"""

import pypdfium2

from lifecycle import SafetyManager
from lifecycle.proxies import VIEW

manager = SafetyManager()

document = pypdfium2.PdfDocument.new()
page = document.new_page(2000, 2000)
bitmap = page.render(bitmap_maker=pypdfium2.PdfBitmap.new_foreign)
bitmap = manager.proxy(bitmap, release="close", children={"to_numpy": VIEW})
picture = bitmap.to_numpy()
bitmap.close()
print(picture[1000, 1000])
del picture  # the last that held it: it is released now
