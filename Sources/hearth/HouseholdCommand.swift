import ArgumentParser
import HearthNode

/// `hearth household`.
struct HouseholdCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "household",
    abstract: "Create a household, show it, recover it, and say who may invite.",
    discussion: """
      Example:
        hearth household create --name desk
        hearth household show
      """,
    subcommands: [
      HouseholdCreateCommand.self, HouseholdShowCommand.self, HouseholdPromoteCommand.self,
      HouseholdDemoteCommand.self, HouseholdRecoverCommand.self,
    ])
}

/// `hearth household create`.
struct HouseholdCreateCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "create",
    abstract: "Make a household whose first device is this one.",
    discussion: """
      Prints the recovery phrase once: write it on paper. It is nowhere on the disk, and it is the only way back \
      when all devices that may invite are lost.

      Example:
        hearth household create --name desk
      """)

  @OptionGroup var reporting: ReportingOptions

  @Option(
    help: ArgumentHelp("This device's name in the household. (default: the host name)", valueName: "name"))
  var name: String?

  func run() throws {
    let creation = try HouseholdOffice(try Here.place()).create(name: name)
    if reporting.json {
      try OutputStream.standard.write(jsonLine(creation.summary()) + "\n")
    } else {
      try OutputStream.standard.write(creation.text() + "\n")
    }
  }
}

/// `hearth household show`.
struct HouseholdShowCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "show",
    abstract: "Show the household as it lies on this device's disk.",
    discussion: """
      Example:
        hearth household show
      """)

  @OptionGroup var reporting: ReportingOptions

  func run() throws {
    let summary = try HouseholdOffice(try Here.place()).summary()
    try OutputStream.standard.write(reporting.json ? jsonLine(summary) + "\n" : summary.text + "\n")
  }
}

/// `hearth household promote`.
struct HouseholdPromoteCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "promote",
    abstract: "Let a device invite and remove others.",
    discussion: """
      Takes an admin's device.

      Example:
        hearth household promote laptop
      """)

  @OptionGroup var reporting: ReportingOptions

  @Argument(help: ArgumentHelp("Name, id, or start of the id.", valueName: "device"))
  var device: String

  func run() throws {
    try HouseholdChange(.promote, device: device, place: try Here.place()).run(json: reporting.json)
  }
}

/// `hearth household demote`.
struct HouseholdDemoteCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "demote",
    abstract: "Take a device's right to invite and remove others.",
    discussion: """
      It stays in the household. Takes an admin's device.

      Example:
        hearth household demote laptop
      """)

  @OptionGroup var reporting: ReportingOptions

  @Argument(help: ArgumentHelp("Name, id, or start of the id.", valueName: "device"))
  var device: String

  func run() throws {
    try HouseholdChange(.demote, device: device, place: try Here.place()).run(json: reporting.json)
  }
}

/// `hearth household recover`.
struct HouseholdRecoverCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "recover",
    abstract: "Make this device an admin with the recovery phrase, and remove lost devices.",
    discussion: """
      For a household whose admins are all lost, or contradict each other. This device must be in the household. \
      The phrase is asked for, or read from standard input.

      Example:
        hearth household recover --lost old-desk
      """)

  @OptionGroup var reporting: ReportingOptions

  @Option(
    help: ArgumentHelp("A lost device to remove; may be given several times.", valueName: "device"))
  var lost: [String] = []

  func run() throws {
    let place = try Here.place()
    try OutputStream.diagnostics.write("Recovery phrase: ")
    guard let phrase = readLine() else { throw HouseholdFailure.noAnswerTyped("Recovery phrase") }
    try HouseholdChange(recovering: phrase, lost: lost, place: place).run(json: reporting.json)
  }
}

/// `hearth revoke`.
struct RevokeCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "revoke",
    abstract: "Remove a device from the household for ever.",
    discussion: """
      The others turn it away as soon as they hear of it, and a new network key is made. The machine can come \
      back only under a new identity, by a new invitation. Takes an admin's device; while the daemon is down, the \
      others hear of it at the next 'hearth up'.

      Example:
        hearth revoke old-laptop
      """)

  @OptionGroup var reporting: ReportingOptions

  @Argument(help: ArgumentHelp("Name, id, or start of the id.", valueName: "device"))
  var device: String

  @Flag(help: "It was lost or stolen.")
  var lost = false

  @Flag(help: "Do not ask.")
  var yes = false

  func run() throws {
    let place = try Here.place()
    let change = HouseholdChange(.revoke, device: device, lost: lost, place: place)
    if !yes {
      let name = try change.shownName()
      guard try Question.yes("Remove \(name) for ever?") else { throw HouseholdFailure.declined(name) }
    }
    try change.run(json: reporting.json)
  }
}

/// `hearth leave`.
struct LeaveCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "leave",
    abstract: "Take this device out of its household and remove its keys.",
    discussion: """
      Tells the others through the daemon, which then stops. With --local it only forgets the household here: \
      for a copied or damaged state, or when the daemon cannot run. The others then show it as unreachable until \
      'hearth revoke' removes it.

      Example:
        hearth leave
        hearth leave --local
      """)

  @OptionGroup var reporting: ReportingOptions

  @Flag(help: "Forget the household on this device without telling anybody.")
  var local = false

  @Flag(help: "Do not ask.")
  var yes = false

  func run() throws {
    let place = try Here.place()
    if !yes, !(try Question.yes("Leave the household for ever and remove this device's keys?")) {
      throw HouseholdFailure.declined("leaving")
    }
    let end = local ? try HouseholdOffice(place).leaveLocally() : try HouseholdOffice(place).leave()
    try OutputStream.standard.write(reporting.json ? jsonLine(end) + "\n" : end.text + "\n")
  }
}
