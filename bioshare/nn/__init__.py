"""Networks: plain PyTorch. Knows nothing of sleep."""

from bioshare.nn.angles import angles as angles
from bioshare.nn.centring import LateralCentring2d as LateralCentring2d
from bioshare.nn.centring import with_lateral_centring as with_lateral_centring
from bioshare.nn.convert import conversion_table as conversion_table
from bioshare.nn.convert import to_convolutional as to_convolutional
from bioshare.nn.convert import to_locally_connected as to_locally_connected
from bioshare.nn.curvature import gradient_norm as gradient_norm
from bioshare.nn.curvature import top_eigenvalue as top_eigenvalue
from bioshare.nn.dascoli import dascoli as dascoli
from bioshare.nn.deviation import deviation as deviation
from bioshare.nn.deviation import keeping as keeping
from bioshare.nn.deviation import locality as locality
from bioshare.nn.direct import with_direct_feedback as with_direct_feedback
from bioshare.nn.feedback import backpropagating as backpropagating
from bioshare.nn.feedback import with_feedback as with_feedback
from bioshare.nn.feedback import without_feedback as without_feedback
from bioshare.nn.filter_picture import draw_block as draw_block
from bioshare.nn.filter_picture import draw_filter as draw_filter
from bioshare.nn.fully_connected import to_fully_connected as to_fully_connected
from bioshare.nn.interpolation import interpolated as interpolated
from bioshare.nn.interpolation import string_path as string_path
from bioshare.nn.locally_connected import LocallyConnected2d as LocallyConnected2d
from bioshare.nn.moskovitz import moskovitz as moskovitz
from bioshare.nn.one_dimensional import LocallyConnected1d as LocallyConnected1d
from bioshare.nn.one_dimensional import PeriodicConv1d as PeriodicConv1d
from bioshare.nn.past_norms import with_feedback_past_norms as with_feedback_past_norms
from bioshare.nn.patch_networks import MLPMixer as MLPMixer
from bioshare.nn.patch_networks import SelfAttention as SelfAttention
from bioshare.nn.patch_networks import VisionTransformer as VisionTransformer
from bioshare.nn.patchwise import PatchwiseLinear as PatchwiseLinear
from bioshare.nn.periodic import PeriodicConv2d as PeriodicConv2d
from bioshare.nn.resnet import cifar_resnet as cifar_resnet
from bioshare.nn.resnet import resnet18 as resnet18
from bioshare.nn.resnet import resnet20 as resnet20
from bioshare.nn.resnet import resnet50 as resnet50

__all__ = [
    "LateralCentring2d",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "MLPMixer",
    "PatchwiseLinear",
    "PeriodicConv1d",
    "PeriodicConv2d",
    "SelfAttention",
    "VisionTransformer",
    "angles",
    "backpropagating",
    "cifar_resnet",
    "conversion_table",
    "dascoli",
    "deviation",
    "draw_block",
    "draw_filter",
    "gradient_norm",
    "interpolated",
    "keeping",
    "locality",
    "moskovitz",
    "resnet18",
    "resnet20",
    "resnet50",
    "string_path",
    "to_convolutional",
    "to_fully_connected",
    "to_locally_connected",
    "top_eigenvalue",
    "with_direct_feedback",
    "with_feedback",
    "with_feedback_past_norms",
    "with_lateral_centring",
    "without_feedback",
]
