// packet-delay: makes the packets that one host of a lab receives late, and loses some of them.
//
// The kernel's own tool for this, the netem queueing discipline, is a module that many kernels do not have. What
// nearly all of them have is NFQUEUE: the kernel parks a packet, tells a process its number, and lets the packet
// pass or drops it when the process says so. This program is that process. Packets stay in the kernel; only their
// numbers come here, into a first-in-first-out list with the time when each may go on.
//
// Why on receive: a packet that waits in its sender's stack counts as not yet sent, and TCP sends no more than a few
// of those at once. Measured on a link of 200 Mbit/s with delay=2 jitter=4: 190 Mbit/s when the receiver holds the
// packets, as without any delay; 33 to 42 Mbit/s when the sender holds them.
// Why C: this loop runs once for each packet or two, and needs raw netlink sockets and nothing else.
//
// Measured on a shared machine with two cores (AMD EPYC, kernel 6.18): scripts/household up 2, `link all ...`, one iperf3
// TCP stream of 5 s; processor time of this program on the receiver, from /proc/PID/stat.
//   rate 1 Gbit/s, delay 0.2 ms                956 Mbit/s    8 % of a core (up to 64 KiB of a stream are one packet)
//   the same with loss=0.01                    954 Mbit/s   21 % of a core (single packets of 1.5 kB)
//   no rate, delay 0.2 ms                     6700 Mbit/s   21 % of a core (10900 Mbit/s without this program)
//   200 Mbit/s, 2 ms + 0...4 ms, 0.2 % loss    189 Mbit/s   10 % of a core
//
// Build: cc -O2 -o packet-delay packet-delay.c        Usage: see usage() below.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  WAITING_LIMIT = 1 << 16,      // packets under way; the kernel drops further ones, as a full buffer would
  RECEIVE_BUFFER = 16 << 20,    // bytes of announcements that may wait while this process is not scheduled
  MESSAGE_BYTES = 256,          // more than any message that we send
  TIMER_SLACK_NS = 1000,        // the kernel's default of 50 us would be added to every delay
  LONGEST_DELAY_MS = 60 * 1000,
  LONGEST_BURST = 1000000,
};

typedef struct {
  double delay_ns, jitter_ns;
  double loss;                  // mean share of packets that are lost
  double burst;                 // mean length of a run of lost packets; 1: losses are independent
} link_t;

typedef struct {
  uint32_t id;
  uint64_t due_ns;
} waiting_t;

typedef struct {
  link_t link;
  bool losing;                  // inside a run of losses
  uint64_t last_due_ns;
  uint64_t random;              // state of xorshift64*
  uint32_t first, end;          // positions in `waiting`, modulo its size
  waiting_t waiting[WAITING_LIMIT];
} wire_t;

static wire_t wire;
static int netlink;
static uint16_t queue;

static void fail(const char *what) {
  fprintf(stderr, "packet-delay: %s (queue %u): %s\n", what, queue, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

// Uniform in [0, 1): xorshift64* (Vigna, 2016), which is plenty for losses.
static double uniform(void) {
  uint64_t x = wire.random;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  wire.random = x;
  return (double)((x * 0x2545F4914F6CDD1Du) >> 11) / 9007199254740992.0;
}

// ---- netlink messages: a header, the queue's number, attributes

typedef union {
  struct nlmsghdr header;
  char bytes[MESSAGE_BYTES];
} message_t;

static void start(message_t *message, int kind, int flags) {
  memset(message, 0, sizeof *message);
  message->header.nlmsg_type = (uint16_t)(NFNL_SUBSYS_QUEUE << 8 | kind);
  message->header.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
  message->header.nlmsg_len = NLMSG_LENGTH(sizeof(struct nfgenmsg));
  struct nfgenmsg *address = NLMSG_DATA(&message->header);
  address->nfgen_family = AF_UNSPEC;
  address->version = NFNETLINK_V0;
  address->res_id = htons(queue);
}

static void add(message_t *message, int type, const void *value, size_t bytes) {
  struct nlattr attribute = {.nla_len = (uint16_t)(NLA_HDRLEN + bytes), .nla_type = (uint16_t)type};
  char *place = message->bytes + NLMSG_ALIGN(message->header.nlmsg_len);
  memcpy(place, &attribute, sizeof attribute);
  memcpy(place + NLA_HDRLEN, value, bytes);
  message->header.nlmsg_len = NLMSG_ALIGN(message->header.nlmsg_len) + NLA_ALIGN(attribute.nla_len);
}

static void send_message(const message_t *message) {
  if (send(netlink, message, message->header.nlmsg_len, 0) < 0) fail("cannot talk to the kernel's packet queue");
}

static void send_and_confirm(message_t *message, const char *what) {
  send_message(message);
  union { struct nlmsghdr header; char bytes[8192]; } answer;
  do {
    if (recv(netlink, &answer, sizeof answer, 0) < 0) fail(what);
  } while (answer.header.nlmsg_type != NLMSG_ERROR);   // packets may be announced before the confirmation
  errno = -((struct nlmsgerr *)NLMSG_DATA(&answer.header))->error;
  if (errno) fail(what);
}

static void give_verdict(int kind, uint32_t id, uint32_t verdict) {
  message_t message;
  start(&message, kind, 0);
  struct nfqnl_msg_verdict_hdr value = {.verdict = htonl(verdict), .id = htonl(id)};
  add(&message, NFQA_VERDICT_HDR, &value, sizeof value);
  send_message(&message);
}

static void open_queue(void) {
  netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  if (netlink < 0 || connect(netlink, (struct sockaddr *)&kernel, sizeof kernel) < 0) fail("cannot open netlink");
  int bytes = RECEIVE_BUFFER, yes = 1;
  setsockopt(netlink, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  setsockopt(netlink, SOL_NETLINK, NETLINK_NO_ENOBUFS, &yes, sizeof yes);

  message_t message;
  start(&message, NFQNL_MSG_CONFIG, NLM_F_ACK);
  struct nfqnl_msg_config_cmd bind = {.command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_UNSPEC)};
  add(&message, NFQA_CFG_CMD, &bind, sizeof bind);
  send_and_confirm(&message, "cannot bind the packet queue; is another packet-delay running on this host?");

  // Numbers only, no content; a segmented super-packet of up to 64 KiB counts as one.
  start(&message, NFQNL_MSG_CONFIG, NLM_F_ACK);
  struct nfqnl_msg_config_params content = {.copy_mode = NFQNL_COPY_META};
  uint32_t limit = htonl(WAITING_LIMIT), flags = htonl(NFQA_CFG_F_GSO);
  add(&message, NFQA_CFG_PARAMS, &content, sizeof content);
  add(&message, NFQA_CFG_QUEUE_MAXLEN, &limit, sizeof limit);
  add(&message, NFQA_CFG_FLAGS, &flags, sizeof flags);
  add(&message, NFQA_CFG_MASK, &flags, sizeof flags);
  send_and_confirm(&message, "cannot configure the packet queue");
}

// ---- the wire

// Gilbert's model of bursty loss (1960): in the bad state all packets are lost. Leaving it with 1/burst makes runs of
// that mean length; entering it with loss/(1-loss)/burst makes the mean loss what was asked for.
static bool is_lost(void) {
  double loss = wire.link.loss, leave = 1 / wire.link.burst;
  if (wire.link.burst <= 1) return uniform() < loss;
  double enter = loss < 1 ? loss * leave / (1 - loss) : 1;
  wire.losing = wire.losing ? loss >= 1 || uniform() >= leave : uniform() < enter;
  return wire.losing;
}

static void take_packet(uint32_t id, uint64_t now) {
  if (wire.end - wire.first == WAITING_LIMIT || is_lost()) {
    give_verdict(NFQNL_MSG_VERDICT, id, NF_DROP);
    return;
  }
  uint64_t due = now + (uint64_t)(wire.link.delay_ns + wire.link.jitter_ns * uniform());
  if (due < wire.last_due_ns) due = wire.last_due_ns;   // a link keeps the order of packets
  wire.last_due_ns = due;
  wire.waiting[wire.end++ % WAITING_LIMIT] = (waiting_t){id, due};
}

static void read_announcement(struct nlmsghdr *message, uint64_t now) {
  if (message->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET)) return;
  char *place = (char *)NLMSG_DATA(message) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
  char *end = (char *)message + message->nlmsg_len;
  struct nlattr attribute;
  while (end - place >= NLA_HDRLEN) {
    memcpy(&attribute, place, sizeof attribute);
    if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > end - place) return;
    struct nfqnl_msg_packet_hdr packet;
    if ((attribute.nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR
        && attribute.nla_len >= NLA_HDRLEN + sizeof packet) {
      memcpy(&packet, place + NLA_HDRLEN, sizeof packet);
      take_packet(ntohl(packet.packet_id), now);
      return;
    }
    place += NLA_ALIGN(attribute.nla_len);
  }
}

static void read_announcements(void) {
  static union { struct nlmsghdr header; char bytes[1 << 18]; } input;
  ssize_t bytes;
  while ((bytes = recv(netlink, &input, sizeof input, MSG_DONTWAIT)) > 0) {
    uint64_t now = now_ns();
    unsigned left = (unsigned)bytes;
    for (struct nlmsghdr *m = &input.header; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) read_announcement(m, now);
  }
}

// One message lets all packets up to a number pass: numbers rise, and the list is in order.
static void release_due(uint64_t now) {
  bool any = false;
  uint32_t last = 0;
  for (; wire.first != wire.end; wire.first++, any = true) {
    waiting_t *oldest = &wire.waiting[wire.first % WAITING_LIMIT];
    if (oldest->due_ns > now) break;
    last = oldest->id;
  }
  if (any) give_verdict(NFQNL_MSG_VERDICT_BATCH, last, NF_ACCEPT);
}

static void run(void) {
  for (;;) {
    struct pollfd readable = {.fd = netlink, .events = POLLIN};
    struct timespec pause, *until = NULL;
    if (wire.first != wire.end) {
      uint64_t due = wire.waiting[wire.first % WAITING_LIMIT].due_ns, now = now_ns();
      uint64_t left = due > now ? due - now : 0;
      pause = (struct timespec){.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
      until = &pause;
    }
    if (ppoll(&readable, 1, until, NULL) < 0 && errno != EINTR) fail("cannot wait for packets");
    if (readable.revents) read_announcements();
    release_due(now_ns());
  }
}

// ---- command line

static void usage(FILE *out) {
  fputs("usage: packet-delay QUEUE PID-FILE DELAY-MS JITTER-MS LOSS-PERCENT BURST\n"
        "Delays what NFQUEUE number QUEUE of this network namespace gets by DELAY plus uniform 0..JITTER ms, in order,\n"
        "and loses LOSS percent in runs of mean length BURST. Goes to the background once the queue is open.\n", out);
}

static double number(const char *text, const char *name, double least, double most) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end || !(value >= least && value <= most)) {
    fprintf(stderr, "packet-delay: %s is '%s', not a number from %g to %g\n", name, text, least, most);
    exit(64);
  }
  return value;
}

// The caller may rely on the queue being open when this program's first process ends.
static void go_to_background(const char *pid_file) {
  pid_t child = fork();
  if (child < 0) fail("cannot fork");
  if (child > 0) {
    FILE *file = fopen(pid_file, "we");
    if (file && fprintf(file, "%d\n", child) > 0 && fclose(file) == 0) exit(0);
    kill(child, SIGKILL);   // nobody could find it again
    fail("cannot write the pid file");
  }
  setsid();
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int i = 0; i < 3; i++) dup2(null, i);
  if (chdir("/") < 0) _exit(1);
}

int main(int count, char **words) {
  if (count != 7) {
    usage(stderr);
    return 64;
  }
  queue = (uint16_t)number(words[1], "QUEUE", 0, 65535);
  wire.link.delay_ns = number(words[3], "DELAY-MS", 0, LONGEST_DELAY_MS) * 1e6;
  wire.link.jitter_ns = number(words[4], "JITTER-MS", 0, LONGEST_DELAY_MS) * 1e6;
  wire.link.loss = number(words[5], "LOSS-PERCENT", 0, 100) / 100;
  wire.link.burst = number(words[6], "BURST", 1, LONGEST_BURST);
  open_queue();
  go_to_background(words[2]);
  wire.random = (now_ns() ^ (uint64_t)getpid() << 32) | 1;   // every host its own losses
  prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
  run();
}
