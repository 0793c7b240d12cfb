/// Where the files of the household's state are replaced and removed, each durably before the call returns.
package protocol HouseholdFiles: Sendable {
  /// Replaces a file whole; after a crash it has its old content or its new one.
  func replace(_ name: String, with bytes: [UInt8]) throws(FileFailure)
  /// Removes a file, if it is there.
  func remove(_ name: String) throws(FileFailure)
}

/// The files in a directory of the disk.
package struct DiskHouseholdFiles: HouseholdFiles {
  private let directory: String

  /// The files in this directory.
  package init(directory: String) { self.directory = directory }

  /// Writes a hidden file, puts it on the disk, renames it and puts the renaming on the disk.
  package func replace(_ name: String, with bytes: [UInt8]) throws(FileFailure) {
    try AtomicFile.write(bytes, to: "\(directory)/\(name)", permissions: 0o600)
  }

  /// Removes the file and puts that on the disk.
  package func remove(_ name: String) throws(FileFailure) {
    if try removeFile("\(directory)/\(name)") { try synchronizeDirectory(directory) }
  }
}
