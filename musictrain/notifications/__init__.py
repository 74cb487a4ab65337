"""Word of a run to people who are not watching: what is worth telling, and by which way it goes."""

from musictrain.notifications.mail_settings import MailSettings
from musictrain.notifications.messages import EVENTS, Message
from musictrain.notifications.outbox import Outbox

__all__ = ["EVENTS", "MailSettings", "Message", "Outbox"]
