package import CryptoPrimitives
package import MeshModel
import WireCoding

// Fixed-width fields that several encodings share.

func readFormatVersion(
  _ reader: inout ByteReader, _ field: StaticString, _ known: UInt8
) throws(DecodingFailure) {
  let version = try reader.integer(field, as: UInt8.self)
  guard version == known else { throw .invalid(field: "\(field)", value: UInt64(version)) }
}

func readSigningKey(
  _ reader: inout ByteReader, _ field: StaticString
) throws(DecodingFailure) -> SigningPublicKey {
  let bytes = try reader.bytes(field, count: SigningPublicKey.byteCount)
  guard let key = SigningPublicKey(bytes: bytes) else { preconditionFailure("a key of \(bytes.count) bytes") }
  return key
}

func readAgreementKey(_ reader: inout ByteReader) throws(DecodingFailure) -> AgreementPublicKey {
  let bytes = try reader.bytes("agreement key", count: AgreementPublicKey.byteCount)
  guard let key = AgreementPublicKey(bytes: bytes) else {
    preconditionFailure("a key of \(bytes.count) bytes")
  }
  return key
}

func readSealingKey(_ reader: inout ByteReader) throws(DecodingFailure) -> SealingPublicKey {
  let bytes = try reader.bytes("sealing key", count: SealingPublicKey.byteCount)
  guard let key = SealingPublicKey(bytes: bytes) else { preconditionFailure("a key of \(bytes.count) bytes") }
  return key
}

func readSignature(_ reader: inout ByteReader) throws(DecodingFailure) -> Signature {
  let bytes = try reader.bytes("signature", count: Signature.byteCount)
  guard let value = Signature(bytes: bytes) else {
    preconditionFailure("a signature of \(bytes.count) bytes")
  }
  return value
}

func readDigest(_ reader: inout ByteReader, _ field: StaticString) throws(DecodingFailure) -> ContentDigest {
  let bytes = try reader.bytes(field, count: ContentDigest.byteCount)
  guard let digest = ContentDigest(bytes: bytes) else {
    preconditionFailure("a digest of \(bytes.count) bytes")
  }
  return digest
}

func readDeviceName(_ reader: inout ByteReader) throws(DecodingFailure) -> String {
  let name = try reader.text("device name", limit: TrustLimits.nameBytes)
  guard isValidDeviceName(name) else {
    throw .invalid(field: "device name", value: UInt64(name.utf8.count))
  }
  return name
}

extension DeviceID {
  /// The name of the device that signs with this key.
  package init(of key: SigningPublicKey) {
    let digest = ContentDigest(of: key.bytes)
    guard let device = DeviceID(bytes: digest.bytes.prefix(DeviceID.byteCount)) else {
      preconditionFailure("16 bytes name a device")
    }
    self = device
  }
}
