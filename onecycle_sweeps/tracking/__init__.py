"""Fills MLflow from the journals, and knows where its UI shows a sweep. MLflow itself is imported on first use."""

from onecycle_sweeps.tracking.logged import RUN_ID as RUN_ID
from onecycle_sweeps.tracking.logged import RUN_PARAMS as RUN_PARAMS
from onecycle_sweeps.tracking.logged import RUN_STATUS as RUN_STATUS
from onecycle_sweeps.tracking.logged import histories as histories
from onecycle_sweeps.tracking.logged import logged_runs as logged_runs
from onecycle_sweeps.tracking.runs import check_store as check_store
from onecycle_sweeps.tracking.runs import make_view_again as make_view_again
from onecycle_sweeps.tracking.shipping import Backlog as Backlog
from onecycle_sweeps.tracking.shipping import Shipper as Shipper
from onecycle_sweeps.tracking.shipping import backlog as backlog
from onecycle_sweeps.tracking.shipping import deliver as deliver
from onecycle_sweeps.tracking.shipping import is_current as is_current
from onecycle_sweeps.tracking.shipping import is_due as is_due
from onecycle_sweeps.tracking.shipping import ship as ship
from onecycle_sweeps.tracking.store import StoreUnreachable as StoreUnreachable
from onecycle_sweeps.tracking.store import check_uri as check_uri
from onecycle_sweeps.tracking.store import database_file as database_file
from onecycle_sweeps.tracking.store import is_server as is_server
from onecycle_sweeps.tracking.store import ping as ping
from onecycle_sweeps.tracking.ui import PORT as PORT
from onecycle_sweeps.tracking.ui import overlay_link as overlay_link
from onecycle_sweeps.tracking.ui import ui_command as ui_command
from onecycle_sweeps.tracking.ui import ui_environment as ui_environment
