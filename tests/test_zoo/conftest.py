"""Make the shared helpers importable; the folder is no package."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("zoo_densities", Path(__file__).with_name("densities.py"))
densities = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = densities
spec.loader.exec_module(densities)
