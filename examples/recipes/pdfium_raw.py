"""A bitmap in PDFium's own memory is closed as one closes everything; the array over it stays.

pip install pypdfium2 numpy
"""

import pypdfium2

document = pypdfium2.PdfDocument.new()
page = document.new_page(2000, 2000)
bitmap = page.render(bitmap_maker=pypdfium2.PdfBitmap.new_foreign)
picture = bitmap.to_numpy()
bitmap.close()
print(picture[1000, 1000])
