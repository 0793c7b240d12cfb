/// Which devices of a household can change places without changing any plan's cost.
struct DeviceClasses {
  /// The class of each device; classes are numbered by their first device.
  let classes: [Int]
  /// The devices of each class, ascending.
  let members: [[Int]]

  init(_ household: HouseholdProfile) {
    var classes: [Int] = []
    var members: [[Int]] = []
    for device in household.devices.indices {
      let alike = members.firstIndex { DeviceClasses.alike(household, $0[0], device) }
      if let alike {
        classes.append(alike)
        members[alike].append(device)
      } else {
        classes.append(members.count)
        members.append([device])
      }
    }
    self.classes = classes
    self.members = members
  }

  private static func alike(_ household: HouseholdProfile, _ first: Int, _ second: Int) -> Bool {
    var profile = household.devices[second]
    profile.name = household.devices[first].name
    guard profile == household.devices[first] else { return false }
    return household.devices.indices.allSatisfy { other in
      other == first || other == second || household.link(first, other) == household.link(second, other)
    }
  }

  /// All groups that can be made of some devices, one of each set of groups that cost the same.
  ///
  /// Of each class the first devices are taken. Larger groups come first.
  func groups(from available: UInt64) -> [UInt64] {
    var groups: [UInt64] = [0]
    for devices in members {
      var prefixes: [UInt64] = [0]
      for device in devices where available & .device(device) != 0 {
        prefixes.append(prefixes[prefixes.count - 1] | .device(device))
      }
      groups = groups.flatMap { group in prefixes.map { group | $0 } }
    }
    return groups.filter { $0 != 0 }.sorted { ($1.nonzeroBitCount, $0) < ($0.nonzeroBitCount, $1) }
  }

  /// The group of the same classes that has the first devices of each.
  func representative(_ group: UInt64) -> UInt64 {
    var counts = Array(repeating: 0, count: members.count)
    for device in DeviceSet(group) { counts[classes[device]] += 1 }
    var first: UInt64 = 0
    for (devices, count) in zip(members, counts) {
      for device in devices.prefix(count) { first |= .device(device) }
    }
    return first
  }

  /// How many groups differ in cost, at most `limit`.
  func groupCount(atMost limit: Int) -> Int {
    var count = 1
    for devices in members {
      count *= devices.count + 1
      if count > limit { return limit }
    }
    return count - 1
  }
}
