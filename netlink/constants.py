# SPDX-License-Identifier: Apache-2.0
"""Numbers of the netdev and ethtool families and of netlink itself, as in Linux 6.18.

Sources: ``include/uapi/linux/{netlink,genetlink,netdev,ethtool_netlink_generated}.h``. Members
carry the kernel's names without their prefix (``NETDEV_A_QUEUE_NAPI_ID`` is
``QueueAttr.NAPI_ID``); :func:`spec_name` gives the name in the kernel's YAML specification.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

NETDEV_FAMILY_NAME = "netdev"
NETDEV_FAMILY_VERSION = 1
NETDEV_MCGRP_MGMT = "mgmt"
NETDEV_MCGRP_PAGE_POOL = "page-pool"

ETHTOOL_FAMILY_NAME = "ethtool"
ETHTOOL_FAMILY_VERSION = 1
ETHTOOL_MCGRP_MONITOR = "monitor"

AGENT_FAMILY_NAME = "devmemtcp"
AGENT_FAMILY_VERSION = 1
AGENT_SOCKET = "/run/devmemtcp/agent.sock"
"""Where the agent listens unless it is told otherwise."""

GENL_ID_CTRL = 16
GENL_CTRL_NAME = "nlctrl"
GENL_CTRL_VERSION = 2
GENL_CTRL_MCGRP_NOTIFY = "notify"

NETLINK_ROUTE = 0
NETLINK_GENERIC = 16
SOL_NETLINK = 270


def spec_name(member: IntEnum | IntFlag) -> str:
    """Return the name that a member has in the YAML specification: ``NAPI_ID`` is ``napi-id``."""
    assert member.name is not None, "a combination of flags has no name of its own"
    return member.name.lower().replace("_", "-")


# --- netlink and generic netlink -------------------------------------------------------------


class MsgType(IntEnum):
    """NLMSG_*: message types that belong to netlink itself; families begin at 16."""

    NOOP = 1
    ERROR = 2
    DONE = 3
    OVERRUN = 4


class MsgFlag(IntFlag):
    """NLM_F_*: flags of a message. Some bits mean another thing in an answer."""

    REQUEST = 0x01
    MULTI = 0x02
    ACK = 0x04
    ECHO = 0x08
    DUMP_INTR = 0x10
    DUMP_FILTERED = 0x20
    # in a GET request
    ROOT = 0x100
    MATCH = 0x200
    ATOMIC = 0x400
    DUMP = 0x300
    # in an ACK
    CAPPED = 0x100
    ACK_TLVS = 0x200


class NlaFlag(IntFlag):
    """NLA_F_*: the two upper bits of an attribute's type."""

    NESTED = 0x8000
    NET_BYTEORDER = 0x4000


NLA_TYPE_MASK = 0x3FFF


class SocketOption(IntEnum):
    """NETLINK_*: socket options of level SOL_NETLINK."""

    ADD_MEMBERSHIP = 1
    DROP_MEMBERSHIP = 2
    CAP_ACK = 10
    EXT_ACK = 11
    GET_STRICT_CHK = 12


class ExtAckAttr(IntEnum):
    """NLMSGERR_ATTR_*: what an ACK or the end of a dump says beyond its errno."""

    MSG = 1
    OFFS = 2
    COOKIE = 3
    POLICY = 4
    MISS_TYPE = 5
    MISS_NEST = 6


class PolicyTypeAttr(IntEnum):
    """NL_POLICY_TYPE_ATTR_*: the policy that a value broke, in ExtAckAttr.POLICY."""

    TYPE = 1
    MIN_VALUE_S = 2
    MAX_VALUE_S = 3
    MIN_VALUE_U = 4
    MAX_VALUE_U = 5
    MIN_LENGTH = 6
    MAX_LENGTH = 7
    POLICY_IDX = 8
    POLICY_MAXTYPE = 9
    BITFIELD32_MASK = 10
    PAD = 11
    MASK = 12


class PolicyType(IntEnum):
    """enum netlink_attribute_type: values of PolicyTypeAttr.TYPE."""

    INVALID = 0
    FLAG = 1
    U8 = 2
    U16 = 3
    U32 = 4
    U64 = 5
    S8 = 6
    S16 = 7
    S32 = 8
    S64 = 9
    BINARY = 10
    STRING = 11
    NUL_STRING = 12
    NESTED = 13
    NESTED_ARRAY = 14
    BITFIELD32 = 15
    SINT = 16
    UINT = 17


class CtrlCmd(IntEnum):
    """CTRL_CMD_*: commands of the controller, the family that knows the others."""

    NEWFAMILY = 1
    DELFAMILY = 2
    GETFAMILY = 3
    NEWOPS = 4
    DELOPS = 5
    GETOPS = 6
    NEWMCAST_GRP = 7
    DELMCAST_GRP = 8
    GETMCAST_GRP = 9
    GETPOLICY = 10


class CtrlAttr(IntEnum):
    """CTRL_ATTR_*."""

    FAMILY_ID = 1
    FAMILY_NAME = 2
    VERSION = 3
    HDRSIZE = 4
    MAXATTR = 5
    OPS = 6
    MCAST_GROUPS = 7
    POLICY = 8
    OP_POLICY = 9
    OP = 10


class CtrlOpAttr(IntEnum):
    """CTRL_ATTR_OP_*: one entry of CtrlAttr.OPS."""

    ID = 1
    FLAGS = 2


class CtrlMcastGrpAttr(IntEnum):
    """CTRL_ATTR_MCAST_GRP_*: one entry of CtrlAttr.MCAST_GROUPS."""

    NAME = 1
    ID = 2


class GenlOpFlag(IntFlag):
    """GENL_*: flags of an operation, in CtrlOpAttr.FLAGS."""

    ADMIN_PERM = 0x01
    CMD_CAP_DO = 0x02
    CMD_CAP_DUMP = 0x04
    CMD_CAP_HASPOL = 0x08
    UNS_ADMIN_PERM = 0x10


# --- netdev ----------------------------------------------------------------------------------


class NetdevCmd(IntEnum):
    """NETDEV_CMD_*."""

    DEV_GET = 1
    DEV_ADD_NTF = 2
    DEV_DEL_NTF = 3
    DEV_CHANGE_NTF = 4
    PAGE_POOL_GET = 5
    PAGE_POOL_ADD_NTF = 6
    PAGE_POOL_DEL_NTF = 7
    PAGE_POOL_CHANGE_NTF = 8
    PAGE_POOL_STATS_GET = 9
    QUEUE_GET = 10
    NAPI_GET = 11
    QSTATS_GET = 12
    BIND_RX = 13
    NAPI_SET = 14
    BIND_TX = 15


class DevAttr(IntEnum):
    """NETDEV_A_DEV_*."""

    IFINDEX = 1
    PAD = 2
    XDP_FEATURES = 3
    XDP_ZC_MAX_SEGS = 4
    XDP_RX_METADATA_FEATURES = 5
    XSK_FEATURES = 6


class PagePoolAttr(IntEnum):
    """NETDEV_A_PAGE_POOL_*; a page-pool-info nest has ID and IFINDEX of these."""

    ID = 1
    IFINDEX = 2
    NAPI_ID = 3
    INFLIGHT = 4
    INFLIGHT_MEM = 5
    DETACH_TIME = 6
    DMABUF = 7
    IO_URING = 8


class PagePoolStatsAttr(IntEnum):
    """NETDEV_A_PAGE_POOL_STATS_*."""

    INFO = 1
    ALLOC_FAST = 8
    ALLOC_SLOW = 9
    ALLOC_SLOW_HIGH_ORDER = 10
    ALLOC_EMPTY = 11
    ALLOC_REFILL = 12
    ALLOC_WAIVE = 13
    RECYCLE_CACHED = 14
    RECYCLE_CACHE_FULL = 15
    RECYCLE_RING = 16
    RECYCLE_RING_FULL = 17
    RECYCLE_RELEASED_REFCNT = 18


class NapiAttr(IntEnum):
    """NETDEV_A_NAPI_*."""

    IFINDEX = 1
    ID = 2
    IRQ = 3
    PID = 4
    DEFER_HARD_IRQS = 5
    GRO_FLUSH_TIMEOUT = 6
    IRQ_SUSPEND_TIMEOUT = 7
    THREADED = 8


class QueueAttr(IntEnum):
    """NETDEV_A_QUEUE_*; a queue-id nest has ID and TYPE of these."""

    ID = 1
    IFINDEX = 2
    TYPE = 3
    NAPI_ID = 4
    DMABUF = 5
    IO_URING = 6
    XSK = 7


class QstatsAttr(IntEnum):
    """NETDEV_A_QSTATS_*."""

    IFINDEX = 1
    QUEUE_TYPE = 2
    QUEUE_ID = 3
    SCOPE = 4
    RX_PACKETS = 8
    RX_BYTES = 9
    TX_PACKETS = 10
    TX_BYTES = 11
    RX_ALLOC_FAIL = 12
    RX_HW_DROPS = 13
    RX_HW_DROP_OVERRUNS = 14
    RX_CSUM_COMPLETE = 15
    RX_CSUM_UNNECESSARY = 16
    RX_CSUM_NONE = 17
    RX_CSUM_BAD = 18
    RX_HW_GRO_PACKETS = 19
    RX_HW_GRO_BYTES = 20
    RX_HW_GRO_WIRE_PACKETS = 21
    RX_HW_GRO_WIRE_BYTES = 22
    RX_HW_DROP_RATELIMITS = 23
    TX_HW_DROPS = 24
    TX_HW_DROP_ERRORS = 25
    TX_CSUM_NONE = 26
    TX_NEEDS_CSUM = 27
    TX_HW_GSO_PACKETS = 28
    TX_HW_GSO_BYTES = 29
    TX_HW_GSO_WIRE_PACKETS = 30
    TX_HW_GSO_WIRE_BYTES = 31
    TX_HW_DROP_RATELIMITS = 32
    TX_STOP = 33
    TX_WAKE = 34


class DmabufAttr(IntEnum):
    """NETDEV_A_DMABUF_*."""

    IFINDEX = 1
    QUEUES = 2
    FD = 3
    ID = 4


class QueueType(IntEnum):
    """NETDEV_QUEUE_TYPE_*."""

    RX = 0
    TX = 1


class QstatsScope(IntFlag):
    """NETDEV_QSTATS_SCOPE_*: what is counted apart; 0 is the whole device."""

    QUEUE = 1


class NapiThreaded(IntEnum):
    """NETDEV_NAPI_THREADED_*: where a NAPI instance polls."""

    DISABLED = 0
    ENABLED = 1
    BUSY_POLL = 2


class XdpAct(IntFlag):
    """NETDEV_XDP_ACT_*: what a driver's native XDP can do."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4
    XSK_ZEROCOPY = 8
    HW_OFFLOAD = 16
    RX_SG = 32
    NDO_XMIT_SG = 64


class XdpRxMetadata(IntFlag):
    """NETDEV_XDP_RX_METADATA_*: the metadata kfuncs that a driver has."""

    TIMESTAMP = 1
    HASH = 2
    VLAN_TAG = 4


class XskFlags(IntFlag):
    """NETDEV_XSK_FLAGS_*: what AF_XDP transmission can ask of a driver."""

    TX_TIMESTAMP = 1
    TX_CHECKSUM = 2
    TX_LAUNCH_TIME_FIFO = 4


# --- ethtool: what a devmem host needs of it -------------------------------------------------


class EthtoolCmd(IntEnum):
    """ETHTOOL_MSG_*, from user to kernel. Answers have numbers of their own."""

    FEATURES_GET = 11
    FEATURES_SET = 12
    RINGS_GET = 15
    RINGS_SET = 16
    CHANNELS_GET = 17
    CHANNELS_SET = 18
    RSS_GET = 38
    RSS_SET = 48


class EthtoolReply(IntEnum):
    """ETHTOOL_MSG_*, from kernel to user."""

    RINGS_GET_REPLY = 16
    RINGS_NTF = 17
    CHANNELS_GET_REPLY = 18
    CHANNELS_NTF = 19
    RSS_GET_REPLY = 38
    RSS_NTF = 50


class EthtoolHeaderAttr(IntEnum):
    """ETHTOOL_A_HEADER_*: the nest that names the device in every message."""

    DEV_INDEX = 1
    DEV_NAME = 2
    FLAGS = 3
    PHY_INDEX = 4


class EthtoolFlag(IntFlag):
    """ETHTOOL_FLAG_*: values of EthtoolHeaderAttr.FLAGS."""

    COMPACT_BITSETS = 1
    OMIT_REPLY = 2
    STATS = 4


class RingsAttr(IntEnum):
    """ETHTOOL_A_RINGS_*."""

    HEADER = 1
    RX_MAX = 2
    RX_MINI_MAX = 3
    RX_JUMBO_MAX = 4
    TX_MAX = 5
    RX = 6
    RX_MINI = 7
    RX_JUMBO = 8
    TX = 9
    RX_BUF_LEN = 10
    TCP_DATA_SPLIT = 11
    CQE_SIZE = 12
    TX_PUSH = 13
    RX_PUSH = 14
    TX_PUSH_BUF_LEN = 15
    TX_PUSH_BUF_LEN_MAX = 16
    HDS_THRESH = 17
    HDS_THRESH_MAX = 18


class TcpDataSplit(IntEnum):
    """ETHTOOL_TCP_DATA_SPLIT_*: whether headers and payload go to separate buffers."""

    UNKNOWN = 0
    DISABLED = 1
    ENABLED = 2


class ChannelsAttr(IntEnum):
    """ETHTOOL_A_CHANNELS_*."""

    HEADER = 1
    RX_MAX = 2
    TX_MAX = 3
    OTHER_MAX = 4
    COMBINED_MAX = 5
    RX_COUNT = 6
    TX_COUNT = 7
    OTHER_COUNT = 8
    COMBINED_COUNT = 9


# --- the agent's own family: what a netlink socket does by other means than messages -----------


class AgentCmd(IntEnum):
    """Commands of the family that only the agent has."""

    SUBSCRIBE = 1  # NETLINK_ADD_MEMBERSHIP, for sockets that have no such option
    UNSUBSCRIBE = 2
    STACK_GET = 3  # interfaces that the agent serves
    CHANNEL_OPEN = 4  # the memory by which an application and an interface's stack meet
    LISTEN = 5
    STEER = 6  # let the packets of a listener's address come
    UNLISTEN = 7
    STATS_GET = 8
    APP_GET = 9  # applications that have a channel


class AgentAttr(IntEnum):
    """Attributes of SUBSCRIBE and UNSUBSCRIBE."""

    GROUP = 1  # u32, the multicast group's id as CTRL_CMD_GETFAMILY tells it
