package import Determinism
package import MeshModel

/// Whether this device takes no part in the household's jobs for now, by what its person and its power supply say.
///
/// A pure rule: what was said and read, and the time, in; a reason or none out.
package struct DevicePause: Sendable, Equatable {
  /// Bytes of UTF-8 in what a person gives as reason.
  package static let reasonBytes = 200
  /// How often the power supply is looked at while it counts.
  package static let interval: Duration = .seconds(2)
  /// How long mains power must last before the device takes part again: a loose plug must not cost plan after plan.
  package static let steadyMains: Duration = .seconds(10)

  /// What the person said; nil while the person did not pause it, empty without words.
  package private(set) var words: String?
  /// Whether battery power pauses the device.
  package let pausesOnBattery: Bool
  private var isOnBattery = false
  private var mainsSince: MonotonicInstant?
  /// The person wants it to take part although it is on battery, until mains power comes back.
  private var isOverridden = false
  private var nextReading: MonotonicInstant?

  /// A device whose person has said this, and which has not looked at its power supply yet.
  package init(words: String? = nil, pausesOnBattery: Bool) {
    self.words = words
    self.pausesOnBattery = pausesOnBattery
  }

  /// Why the device takes no part, by the person's word first; nil when it does.
  package var reason: String? {
    if let words { return words.isEmpty ? "paused by its person" : "paused by its person: \(words)" }
    return pausesOnBattery && isOnBattery && !isOverridden ? "on battery" : nil
  }

  /// Whether the power supply is to be read now.
  package func isDue(at now: MonotonicInstant) -> Bool {
    guard pausesOnBattery else { return false }
    guard let nextReading else { return true }
    return nextReading <= now
  }

  /// When `isDue` may change; nil when the power supply does not count, or was never read.
  package var nextDeadline: MonotonicInstant? { pausesOnBattery ? nextReading : nil }

  /// The person pauses the device.
  package mutating func pause(_ text: String) { words = text }

  /// The person wants it to take part, on battery too.
  package mutating func resume() {
    words = nil
    isOverridden = isOnBattery
  }

  /// The power supply was read.
  package mutating func note(_ power: DeviceTraits.Power, at now: MonotonicInstant) {
    nextReading = now.advanced(by: Self.interval)
    guard power != .battery else {
      mainsSince = nil
      isOnBattery = true
      return
    }
    guard isOnBattery else { return }
    let since = mainsSince ?? now
    mainsSince = since
    guard since.duration(to: now) >= Self.steadyMains else { return }
    (isOnBattery, isOverridden, mainsSince) = (false, false, nil)
  }

  /// A person's words as they are kept and shown: one line without control characters, cut to `reasonBytes`.
  package static func plain(_ text: String) -> String {
    var plain = ""
    for scalar in text.unicodeScalars {
      let isControl = scalar.value < 32 || (127..<160).contains(scalar.value)
      plain.unicodeScalars.append(isControl ? " " : scalar)
    }
    let start = plain.firstIndex { $0 != " " } ?? plain.endIndex
    plain = String(plain[start...])
    while plain.utf8.count > reasonBytes || plain.last == " " { plain.removeLast() }
    return plain
  }
}
