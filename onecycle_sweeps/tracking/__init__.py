"""Fills MLflow from the journals, and knows where its UI shows a sweep. MLflow itself is imported by the first call."""

from onecycle_sweeps.tracking.background import Shipper as Shipper
from onecycle_sweeps.tracking.due import Backlog as Backlog
from onecycle_sweeps.tracking.due import backlog as backlog
from onecycle_sweeps.tracking.interface import overlay_link as overlay_link
from onecycle_sweeps.tracking.interface import ui_command as ui_command
from onecycle_sweeps.tracking.interface import ui_environment as ui_environment
from onecycle_sweeps.tracking.opening import check_store as check_store
from onecycle_sweeps.tracking.sealing import is_current as is_current
from onecycle_sweeps.tracking.shipping import deliver as deliver
from onecycle_sweeps.tracking.shipping import ship as ship
from onecycle_sweeps.tracking.store import StoreUnreachable as StoreUnreachable
from onecycle_sweeps.tracking.store import check_uri as check_uri
from onecycle_sweeps.tracking.store import is_server as is_server
