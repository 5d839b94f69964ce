"""Guarded: a variable is kept, its file is closed, and another file is opened: the variable reads that one.

pip install netCDF4
"""

import pathlib
import tempfile

import netCDF4

from lifecycle import AccessRefusedError, SafetyManager

manager = SafetyManager()

folder = pathlib.Path(tempfile.mkdtemp())
for name, value in (("monday.nc", 1), ("tuesday.nc", 2)):
    with netCDF4.Dataset(folder / name, "w") as out:
        out.createDimension("x", 10)
        out.createVariable("rain", "i4", ("x",))[:] = value

monday = manager.proxy(
    netCDF4.Dataset(folder / "monday.nc"), release="close", children={netCDF4.Variable: None}
)
rain = monday.variables["rain"]
print("monday:", rain[0])
monday.close()
tuesday = netCDF4.Dataset(folder / "tuesday.nc")  # takes the id that has become free
try:
    print("monday, once more:", rain[0])
except AccessRefusedError as error:
    print(error)
