"""What two daemons say to each other. Users import from here; sizes and offsets are in bytes.

    values    what messages are made of: names, numbers and texts with their bounds
    greeting  who speaks, and what one lets the other do
    remarks   problems and remarks, for an operator
    offer     what is to move, and what the target answers to that
    handover  the hand-over of the guest, and how a doubt about it is settled
    ending    what comes after it; the end of a sync; the end of what fails
    rounds    the channel of a volume, round by round
    streams   its rounds as streams that storage makes of it

`Hello` opens every control channel, in both directions. Then the source asks and the target
answers; `protocol.conversation` says what may follow what. `Attach` opens volume and memory
channels and ties them to a migration. The messages of volume channels come after it
(`protocol.blocksync`, `protocol.streams`). Every field is bounded.
"""

# Not sorted: messages are in docs/protocol.md in the order of their modules here.
# isort: off
from protocol.messages.values import PEER, MigrationId, GuestName, VolumeName, Guid, Processors
from protocol.messages.greeting import (
    VERSION,
    EQUAL,
    OLDEST,
    CAPABILITIES,
    REQUIRED_CAPABILITIES,
    Hello,
    Working,
    Ping,
    Room,
    Pong,
    greeting,
    agreed_version,
    newest,
    common_capabilities,
)
from protocol.messages.remarks import Weight, Problem, Remark, SomeRemarks
from protocol.messages.offer import (
    RESTARTS_SINCE,
    Action,
    Mode,
    OfferedMode,
    ImageFormat,
    NicOffer,
    GuestSize,
    HypervisorOffer,
    SharedOffer,
    GuestOffer,
    VolumeOffer,
    Offer,
    Placement,
    Findings,
    Begin,
    Accepted,
    Refused,
)
from protocol.messages.handover import (
    Presence,
    HandOver,
    Receiving,
    Seal,
    Ready,
    Commit,
    Abort,
    Inquire,
    Fate,
)
from protocol.messages.ending import Recall, Remarks, Finish, Finished, Failed
from protocol.messages.rounds import BLOCK_SIZE, Attach, BeginRound, Credit, EndRound, Receipt
from protocol.messages.streams import (
    StreamOffer,
    StreamTerms,
    BeginStream,
    EndStream,
    StreamReceipt,
)

__all__ = [
    "BLOCK_SIZE",
    "CAPABILITIES",
    "EQUAL",
    "OLDEST",
    "PEER",
    "REQUIRED_CAPABILITIES",
    "RESTARTS_SINCE",
    "VERSION",
    "Abort",
    "Accepted",
    "Action",
    "Attach",
    "Begin",
    "BeginRound",
    "BeginStream",
    "Commit",
    "Credit",
    "EndRound",
    "EndStream",
    "Failed",
    "Fate",
    "Findings",
    "Finish",
    "Finished",
    "GuestName",
    "GuestOffer",
    "GuestSize",
    "Guid",
    "HandOver",
    "Hello",
    "HypervisorOffer",
    "ImageFormat",
    "Inquire",
    "MigrationId",
    "Mode",
    "NicOffer",
    "Offer",
    "OfferedMode",
    "Ping",
    "Placement",
    "Pong",
    "Presence",
    "Problem",
    "Processors",
    "Ready",
    "Recall",
    "Receipt",
    "Receiving",
    "Refused",
    "Remark",
    "Remarks",
    "Room",
    "Seal",
    "SharedOffer",
    "SomeRemarks",
    "StreamOffer",
    "StreamReceipt",
    "StreamTerms",
    "VolumeName",
    "VolumeOffer",
    "Weight",
    "Working",
    "agreed_version",
    "common_capabilities",
    "greeting",
    "newest",
]
