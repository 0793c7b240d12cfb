package import LanguageModels

/// A model's directory on disk, its files mapped on demand.
package struct ModelFolder: ModelFiles {
  /// Path of the directory.
  package let name: String

  /// The directory at `path`; nothing is read yet.
  package init(_ path: String) { name = path }

  /// Maps the file, or returns nil when there is none of that name.
  package func region(named file: String) throws(CheckpointFailure) -> (any ByteRegion)? {
    do throws(FileFailure) {
      return try MappedFile(name + "/" + file)
    } catch {
      if error.isMissing { return nil }
      throw .unreadable(file: name + "/" + file, reason: error.description)
    }
  }
}
