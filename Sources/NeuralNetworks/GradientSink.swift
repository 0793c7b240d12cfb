/// Where finished gradients go.
///
/// A backward pass calls `add` exactly once for each trainable parameter and micro-batch, with the gradient
/// of the whole micro-batch: what is summed over micro-batches is then the same set of numbers however the
/// micro-batches are spread over threads and devices (docs/ARCHITECTURE.md). The words of a tuned backbone alone come
/// once for each place that reads them, since these may be in different stages of a pipeline.
package protocol GradientSink: AnyObject {
  /// Takes the `parameter.count` values at `gradient`; the memory is the caller's again on return.
  ///
  /// Frozen parameters are never passed.
  func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter)
}
