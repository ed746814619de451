from azero.errors import RunFailed as RunFailed
from azero.errors import UserError as UserError
from cluster.api import Evaluation as Evaluation
from cluster.api import evaluate as evaluate
from cluster.api import load_config as load_config
from cluster.api import read_run as read_run
from cluster.api import train as train
from cluster.commands.train import TrainingResult as TrainingResult
from cluster.records.reading import RunRecords as RunRecords

__version__: str
