/// The longest single transfer or step that is told apart from any longer one (28 hours), so that sums never
/// overflow.
let longestTransfer: Int64 = 100_000_000_000_000

/// How long `bytes` take at a rate, rounded up to the nanosecond.
func transferTime(bytes: Int64, bytesPerSecond: Int64, atMost limit: Int64 = longestTransfer) -> Int64 {
  if bytes < 9_000_000_000 {
    return min(limit, (bytes * 1_000_000_000 + bytesPerSecond - 1) / bytesPerSecond)
  }
  let exact = (Int128(bytes) * 1_000_000_000 + Int128(bytesPerSecond) - 1) / Int128(bytesPerSecond)
  return Int64(clamping: min(Int128(limit), exact))
}

/// The product, or the largest time that sums may still be made of.
func repeated(_ time: Int64, _ times: Int) -> Int64 {
  let (product, overflow) = time.multipliedReportingOverflow(by: Int64(times))
  return overflow ? .max / 8 : min(product, .max / 8)
}

/// The devices of a set written as bits, ascending.
struct DeviceSet: Sequence, IteratorProtocol {
  private var rest: UInt64
  init(_ bits: UInt64) { rest = bits }
  mutating func next() -> Int? {
    guard rest != 0 else { return nil }
    let device = rest.trailingZeroBitCount
    rest &= rest - 1
    return device
  }
}

extension UInt64 {
  /// The set that holds one device.
  static func device(_ device: Int) -> UInt64 { 1 << UInt64(device) }
}
