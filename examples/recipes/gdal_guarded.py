"""Guarded: a raster band is kept, its dataset is not: the band points into freed memory.

apt install python3-gdal
"""

from osgeo import gdal

from lifecycle import SafetyManager

manager = SafetyManager()

gdal.UseExceptions()


def first_band():
    dataset = gdal.GetDriverByName("MEM").Create("", 64, 64)
    dataset = manager.proxy(dataset, release=None, children={gdal.Band: None})
    return dataset.GetRasterBand(1)


band = first_band()
print(band.Checksum())
