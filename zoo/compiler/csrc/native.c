/* Calls compiled graphs many times without Python: from samplers, and for many optimization steps
   in one call. See zoo/compiler/c_abi.py. */
#include <stdint.h>
#include <string.h>
#include <math.h>
typedef struct {
  void *data; int64_t numel; int64_t sizes[8]; int64_t strides[8];
  int32_t ndim; int32_t dtype; int32_t device; int32_t number; int64_t reserved[4];
} array_t;  /* AOTInductorArrayRefTensor of torch's aoti_runtime/interface.h */
typedef int32_t (*call_t)(void *, const void *const *, void *const *);
typedef struct {
  void *model; call_t call; const void **in; void **out; uint64_t dim; uint64_t calls; int64_t stop;
} graph_t;
typedef struct {
  void *model; int32_t (*run)(void *, int32_t, const array_t *, int32_t, array_t *);
  array_t *in; array_t *out; const uint64_t *bytes; int32_t inputs; int32_t outputs;
} package_t;  /* a graph called through the ArrayRef interface */
typedef struct {
  uint64_t count, state_size, kept, control_size, summary_size, noises;
  double *state, *before, *next, *history, *numbers; const double *controls;
  const char *const *noise; const uint64_t *bytes;
} steps_t;
#ifdef __cplusplus
extern "C" {
#endif
int32_t zoo_package(void *data, const void *const *in, void *const *out) {
  package_t *p = (package_t *)data;
  for (int32_t i = 0; i < p->inputs; i++) p->in[i].data = (void *)in[i];
  if (p->run(p->model, p->inputs, p->in, p->outputs, p->out)) return 1;
  for (int32_t i = 0; i < p->outputs; i++) memcpy(out[i], p->out[i].data, p->bytes[i]);
  return 0;
}
static int zoo_finite(const double *x, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) if (!isfinite(x[i])) return 0;
  return 1;
}
static int64_t zoo_nothing(uint64_t dim, double *gradient, double *value) {  /* an error code here makes nutpie panic */
  memset(gradient, 0, dim * sizeof(double));
  *value = NAN;
  return 0;
}
int64_t zoo_gradient(uint64_t dim, const double *x, double *gradient, double *value, void *data) {
  graph_t *graph = (graph_t *)data;
  if (dim != graph->dim) return -1;
  if (graph->stop) return zoo_nothing(dim, gradient, value);
  graph->calls++;
  graph->in[0] = x;
  graph->out[0] = value;
  graph->out[1] = gradient;
  if (graph->call(graph->model, graph->in, graph->out)) { graph->stop = -2; return zoo_nothing(dim, gradient, value); }
  if (!isfinite(*value)) return 4;
  return zoo_finite(gradient, dim) ? 0 : 3;
}
int64_t zoo_copy(uint64_t dim, uint64_t expanded, const double *x, double *out, void *data) {
  (void)data;
  if (dim != expanded) return -1;
  memcpy(out, x, dim * sizeof(double));
  return 0;
}
/* A loop over a carried state. Inputs of the graph: state, control of the step, one constant,
   noise...; outputs: new state, summary. The loop knows sizes only: the first `kept` numbers of each
   new state go into `history`, and a summary that is not finite ends the loop. The state is
   triple-buffered: that of a full-rank guide of 400 unknowns is 5 MB, and copying it costs more than
   the step. */
int64_t zoo_steps(void *data, const steps_t *s) {
  graph_t *graph = (graph_t *)data;
  const uint64_t bytes = s->state_size * sizeof(double);
  double *state = s->state, *before = s->before, *next = s->next;
  uint64_t i = 0;
  for (; i < s->count; i++) {
    double *numbers = s->numbers + s->summary_size * i, *spare = before;
    graph->in[0] = state;
    graph->in[1] = s->controls + s->control_size * i;
    for (uint64_t k = 0; k < s->noises; k++) graph->in[3 + k] = s->noise[k] + i * s->bytes[k];
    graph->out[0] = next;
    graph->out[1] = numbers;
    if (graph->call(graph->model, graph->in, graph->out)) { graph->stop = -2; break; }
    if (!zoo_finite(numbers, s->summary_size)) break;
    before = state;
    state = next;
    next = spare;
    memcpy(s->history + s->kept * i, state, s->kept * sizeof(double));
  }
  if (i % 3 == 1) memcpy(s->before, s->state, bytes);
  if (state != s->state) memcpy(s->state, state, bytes);
  if (i % 3 == 2) memcpy(s->before, before, bytes);
  return (int64_t)i;
}
#ifdef __cplusplus
}
#endif
