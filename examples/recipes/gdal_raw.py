"""A raster band is kept, its dataset is not: the band points into freed memory.

apt install python3-gdal
"""

from osgeo import gdal

gdal.UseExceptions()


def first_band():
    dataset = gdal.GetDriverByName("MEM").Create("", 64, 64)
    return dataset.GetRasterBand(1)


band = first_band()
print(band.Checksum())
