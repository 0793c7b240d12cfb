import Determinism
import HearthNode
import Testing

@Suite("Credit of a job's link (as in QUIC, RFC 9000 §4.1)")
struct LinkCreditTests {
  private static let mebibyte = 1 << 20

  @Test("a sender begins what the receiver has room for, and no more until it hears of more")
  func sender() {
    var credit = SendCredit()
    var begun = 0
    while credit.begin(8 * Self.mebibyte) { begun += 1 }
    // 128 MiB, and each message counts 64 bytes more than it has.
    #expect(begun == 15)
    let fits = credit.begin(7 * Self.mebibyte)
    credit.extend(to: 100)
    let fitsStill = credit.begin(8 * Self.mebibyte)
    credit.extend(to: 136)
    let fitsAgain = credit.begin(8 * Self.mebibyte)
    #expect(fits && !fitsStill && fitsAgain)
  }

  @Test("a receiver tells of a quarter of its room at once, and of more only to a reader that waits")
  func receiver() {
    var credit = ReceiveCredit()
    let begun = (0..<16).map { _ in credit.begin(8 * Self.mebibyte) }
    #expect(begun == Array(repeating: true, count: 15) + [false])
    var grants = [credit.grant(isWaitedFor: false)]
    for _ in 0..<4 {
      credit.consume(8 * Self.mebibyte)
      grants.append(credit.grant(isWaitedFor: false))
    }
    grants.append(credit.grant(isWaitedFor: false))
    grants.append(credit.grant(isWaitedFor: true))
    #expect(grants == [nil, nil, nil, nil, 160, nil, 248])
  }

  @Test("what nobody reads stays below its limit, and a waiting reader fails only then")
  func exhausted() {
    var credit = ReceiveCredit()
    var sender = SendCredit()
    var held = 0
    while !credit.isExhausted {
      if let room = credit.grant(isWaitedFor: true) { sender.extend(to: room) }
      guard sender.begin(32 * Self.mebibyte) else {
        Issue.record("the sender waits for a reader that waits for it, with \(held) MiB held")
        return
      }
      let isTaken = credit.begin(32 * Self.mebibyte)
      #expect(isTaken)
      held += 32
    }
    #expect((384...448).contains(held))
  }

  @Test(
    "no order of messages and readings lets more through than was granted, or both wait", arguments: 0..<200)
  func anyOrder(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var (sender, receiver) = (SendCredit(), ReceiveCredit())
    var (underWay, waiting, told) = ([Int](), [Int](), [UInt32]())
    var next = Int(random.next() % UInt64(64 * Self.mebibyte + 1))
    var (sent, read) = (0, 0)
    for _ in 0..<400 {
      switch random.next() % 4 {
      case 0 where sender.begin(next):
        underWay.append(next)
        sent += 1
        next = Int(random.next() % UInt64(64 * Self.mebibyte + 1))
      case 1 where !underWay.isEmpty:
        let isTaken = receiver.begin(underWay[0])
        #expect(isTaken, "seed \(seed)")
        waiting.append(underWay.removeFirst())
      case 2 where !told.isEmpty: sender.extend(to: told.removeFirst())
      default:
        if waiting.isEmpty {
          if let room = receiver.grant(isWaitedFor: true) { told.append(room) }
          // Nothing is under way in either direction: then the sender may go on.
          if underWay.isEmpty, told.isEmpty {
            var copy = sender
            let goesOn = copy.begin(next)
            #expect(goesOn, "seed \(seed): both wait")
          }
        } else {
          receiver.consume(waiting.remove(at: Int(random.next() % UInt64(waiting.count))))
          read += 1
          if let room = receiver.grant(isWaitedFor: random.next() % 2 == 0) { told.append(room) }
        }
      }
    }
    #expect(sent > 0 && read <= sent)
  }
}
