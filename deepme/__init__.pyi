from deepme.classifier import Classifier as Classifier
from deepme.core.clustering import SoftSpectralClustering as SoftSpectralClustering
from deepme.interface import evaluate as evaluate
from deepme.interface import load as load
from deepme.interface import similarity as similarity
from deepme.mixture import Mixture as Mixture

__version__: str
__all__: list[str]
