import CryptoPrimitives
import MeshModel

/// Which entries of a log count: a function of the set of entries alone, so the order of their arrival is nothing.
///
/// An entry of the root counts. An entry of a device counts when the device has a certificate that counts and was an
/// admin at that place of its chain: some promotion (or admin certificate) that counts covers it, and no revocation
/// or demotion that counts ends before it. A device may always revoke itself.
///
/// Two admins who revoke each other make this circular. The well-founded model of logic programs (Van Gelder, Ross,
/// Schlipf 1991) answers it, computed by its alternating fixpoint: entries are certain, impossible, or neither.
/// What takes rights away counts unless it is impossible; what gives rights counts only when it is certain. So a
/// thief with an admin's key gains nothing by revoking those who revoke him; at worst the root must repair.
struct TrustEvaluation {
  /// Entries that count whichever of two contradicting admins is right.
  private(set) var certain: [Bool] = []
  /// Entries that count if some admin is right.
  private(set) var possible: [Bool] = []

  private let entries: [LogEntry]
  private let chains: ChainForest
  private var certificates: [DeviceID: [Int]] = [:]
  private var grants: [DeviceID: [Grant]] = [:]
  private var closings: [DeviceID: [Closing]] = [:]
  private var issued: [(device: DeviceID, entries: [Int])] = []

  private struct Grant {
    let entry: Int
    let term: UInt32
    let after: UInt32
  }

  /// The end of a device's times as an admin up to `term`.
  private struct Closing {
    let entry: Int
    let term: UInt32
    /// The last entry that counts; nil when none does, or when it is not here yet.
    let through: Int?
  }

  init(_ entries: [LogEntry], chains: ChainForest) {
    self.entries = entries
    self.chains = chains
    sort()
    possible = counted { _ in false }
    certain = counted(closedBy: possible)
    while true {
      possible = counted(closedBy: certain)
      let next = counted(closedBy: possible)
      if next == certain { break }
      certain = next
    }
  }

  private mutating func sort() {
    var places: [DeviceID: Int] = [:]
    for (index, entry) in entries.enumerated() {
      if case .device(let issuer) = entry.issuer {
        if let place = places[issuer] {
          issued[place].entries.append(index)
        } else {
          places[issuer] = issued.count
          issued.append((issuer, [index]))
        }
      }
      switch entry.body {
      case .addDevice(let certificate):
        certificates[certificate.device, default: []].append(index)
        if certificate.isAdmin {
          grants[certificate.device, default: []].append(Grant(entry: index, term: 1, after: 0))
        }
      case .promote(let promotion):
        grants[promotion.device, default: []].append(
          Grant(entry: index, term: promotion.term, after: promotion.after))
      case .revoke(let revocation):
        close(revocation.device, term: .max, through: revocation.through, by: index)
      case .demote(let demotion):
        close(demotion.device, term: demotion.term, through: demotion.through, by: index)
      case .networkKey: break
      }
    }
  }

  private mutating func close(_ device: DeviceID, term: UInt32, through: ChainPoint, by entry: Int) {
    // Who steps down keeps all that it did before: otherwise its own statement would be the first to fall.
    let last = entries[entry].issuer == .device(device) ? entry : chains.index(of: through.digest)
    let isItsOwn = last.map { entries[$0].issuer == .device(device) } ?? false
    closings[device, default: []].append(Closing(entry: entry, term: term, through: isItsOwn ? last : nil))
  }

  private func counted(closedBy closed: [Bool]) -> [Bool] { counted { closed[$0] } }

  /// The least set of entries that count when those closings count for which `isClosing` says so.
  private func counted(_ isClosing: (Int) -> Bool) -> [Bool] {
    var counts = entries.map { $0.issuer == .root }
    var hasChanged = true
    while hasChanged {
      hasChanged = false
      for (device, own) in issued {
        guard certificates[device, default: []].contains(where: { counts[$0] }) else { continue }
        let valid = grants[device, default: []].filter { counts[$0.entry] }
        let active = closings[device, default: []].filter { isClosing($0.entry) }
        for index in own where !counts[index] && covers(index, device, valid, active) {
          counts[index] = true
          hasChanged = true
        }
      }
    }
    return counts
  }

  private func covers(_ index: Int, _ device: DeviceID, _ valid: [Grant], _ active: [Closing]) -> Bool {
    if case .revoke(let revocation) = entries[index].body, revocation.device == device { return true }
    return valid.contains { grant in
      entries[index].sequence > grant.after
        && active.allSatisfy { closing in
          closing.term < grant.term
            || closing.through.map { chains.isAncestor(index, ofOrSame: $0) } ?? false
        }
    }
  }

  /// Whether the device is an admin now: some time of it as an admin has begun for certain and not possibly ended.
  func isAdmin(_ device: DeviceID) -> Bool {
    let last = closings[device, default: []].filter { possible[$0.entry] }.map(\.term).max() ?? 0
    return grants[device, default: []].contains { certain[$0.entry] && $0.term > last }
  }
}

/// The chains of all issuers as trees: a chain is a path unless its issuer's disk was copied.
struct ChainForest {
  private let indices: [ContentDigest: Int]
  // Times of a depth-first walk: an ancestor's interval holds its descendants'.
  private var entered: [Int]
  private var left: [Int]
  /// The entries that no other builds on, in the entries' order.
  private(set) var tips: [Int] = []

  /// The trees of entries whose predecessors are all among them.
  init(_ entries: [LogEntry]) {
    indices = Dictionary(uniqueKeysWithValues: entries.enumerated().map { ($1.digest, $0) })
    entered = [Int](repeating: 0, count: entries.count)
    left = entered
    var children = [[Int]](repeating: [], count: entries.count)
    var open: [(index: Int, isDone: Bool)] = []
    for (index, entry) in entries.enumerated() {
      if let parent = indices[entry.header.previous] {
        children[parent].append(index)
      } else {
        open.append((index, false))
      }
    }
    var time = 0
    while let (index, isDone) = open.popLast() {
      time += 1
      if isDone {
        left[index] = time
        continue
      }
      entered[index] = time
      open.append((index, true))
      for child in children[index] { open.append((child, false)) }
    }
    for index in entries.indices where children[index].isEmpty { tips.append(index) }
  }

  /// Where the entry with this digest is.
  func index(of digest: ContentDigest) -> Int? { indices[digest] }

  /// Whether `index` is `other` or comes before it in the same chain.
  func isAncestor(_ index: Int, ofOrSame other: Int) -> Bool {
    entered[index] <= entered[other] && left[other] <= left[index]
  }
}
