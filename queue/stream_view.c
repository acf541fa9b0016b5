/* A shard's view: names, publishes, mail between shards, and the turn of the streams that the shard owns. Runs on the shard.
 *
 *   publish, own stream      -> stream_append -> acks (until durable) -> answered -> ops->published
 *   publish, another's       -> copy -> owner's inbox -> stream_append -> acks there -> this inbox -> answered
 *   publish, no memory yet   -> parked, in order, until some is durable and has left memory
 *   publish, no stream yet   -> creation -> keeper's inbox -> this inbox -> one of the above
 *
 * Invariants: publishes of a stream that come through this view keep their order; a stream that has something unsubmitted, pending, parked, to sweep or to trim
 * is in the owner's active list; callbacks happen in streams_view_turn only, and may call anything here but that.
 */
#include "queue/stream_view.h"
#include "core/base/clock.h"
#include "queue/sequence.h"

#include <stdlib.h>

#define SWEEP_LEAVES 16u
#define NAME_HELD 64u /* a publish that is held counts so much more than its bytes */

/* ---- lists ---- */

static void list_add(struct publish_list *l, struct stream_publish *p)
{
	p->next = NULL;
	*l->last = p;
	l->last = &p->next;
	l->n++;
}

static struct stream_publish *list_take(struct publish_list *l)
{
	struct stream_publish *p = l->first;

	if (p == NULL)
		return NULL;
	l->first = p->next;
	if (l->first == NULL)
		l->last = &l->first;
	l->n--;
	return p;
}

/* ---- holds ---- */

static struct hold **hold_bucket(struct streams_view *v, const void *what)
{
	return &v->holds[(uintptr_t)what * UINT64_C(0x9e3779b97f4a7c15) >> 56];
}
_Static_assert(HOLD_BUCKETS == 256, "a bucket is eight bits of a hash");

/* The hold on this chunk or buffer, if there is one. */
static struct hold *hold_find(struct streams_view *v, const void *what)
{
	struct hold *h = *hold_bucket(v, what);

	while (h != NULL && h->chunk != what && h->buf != what)
		h = h->next;
	return h;
}

/* One reference, which goes to the caller. NULL: no memory. */
static struct hold *hold_new(struct streams_view *v, struct chunk *c, struct stream_buf *b)
{
	struct hold *h = malloc(sizeof *h), **bucket = hold_bucket(v, c ? (void *)c : (void *)b);

	if (h == NULL)
		return NULL;
	*h = (struct hold){.refs = 1, .chunk = c, .buf = b, .view = v, .next = *bucket};
	*bucket = h;
	if (b != NULL)
		turns_charge(&v->turns, sizeof *b + b->cap);
	return h;
}

void hold_put(struct hold *h)
{
	struct hold **link;

	if (--h->refs > 0)
		return;
	link = hold_bucket(h->view, h->chunk ? (void *)h->chunk : (void *)h->buf);
	while (*link != h)
		link = &(*link)->next;
	*link = h->next;
	if (h->chunk != NULL)
		chunk_put(h->chunk);
	else
		turns_discharge(&h->view->turns, sizeof *h->buf + h->buf->cap);
	buf_put(h->buf);
	free(h);
}

struct hold *hold_buf(struct streams_view *v, struct stream_buf *b)
{
	struct hold *h = hold_find(v, b);

	if (h != NULL) { /* another subscriber has the same bytes */
		h->refs++;
		buf_put(b);
		return h;
	}
	h = hold_new(v, NULL, b);
	if (h == NULL)
		buf_put(b);
	return h;
}

struct hold *hold_chunk(struct streams_view *v, struct view_stream *vs, uint64_t pos)
{
	struct hold *h = vs->tail;
	struct chunk *c;

	if (h != NULL && pos - h->chunk->pos < (uint64_t)h->chunk->units * STREAM_UNIT) {
		h->refs++;
		return h;
	}
	c = chunk_get(vs->s, pos);
	if (c == NULL)
		return NULL;
	h = hold_find(v, c);
	if (h != NULL) {
		h->refs++;
		chunk_put(c);
	} else {
		h = hold_new(v, c, NULL);
	}
	if (h == NULL) {
		chunk_put(c);
		return NULL;
	}
	if (vs->tail == NULL || vs->tail->chunk->pos < c->pos) {
		if (vs->tail != NULL)
			hold_put(vs->tail);
		vs->tail = h;
		h->refs++;
	}
	return h;
}

void stream_slice_put(struct streams_view *v, struct stream_slice *s)
{
	(void)v;
	if (s->hold != NULL)
		hold_put(s->hold);
	s->hold = NULL;
}

void stream_slice_get(struct streams_view *v, const struct stream_slice *s)
{
	(void)v;
	if (s->hold != NULL)
		((struct hold *)s->hold)->refs++;
}

/* ---- names ---- */

static struct span view_name(const void *ctx, uint32_t index)
{
	return stream_name(streams_at(ctx, index));
}

static bool catch_up(struct streams_view *v)
{
	uint32_t count = streams_published(v->ss);

	for (; v->known < count; v->known++)
		if (names_add(&v->names, names_hash(&v->names, view_name(v->ss, v->known)), v->known) != 0)
			return false;
	return true;
}

static enum stream_error create(struct streams_view *v, struct span name, uint64_t hash, bool may_create,
				struct creation **ret)
{
	struct creation *c;

	if (!stream_name_ok(name))
		return STREAM_E_NAME;
	if (!v->ss->opts.create)
		return STREAM_E_UNKNOWN;
	if (!may_create)
		return STREAM_E_ABSENT;
	/* The keeper decides on the last places: it may have made some of `creating` already, which are known then. */
	if (v->known >= v->ss->opts.streams_max || v->creating >= v->ss->opts.streams_max)
		return STREAM_E_LIMIT;
	c = calloc(1, sizeof *c);
	if (c == NULL)
		return STREAM_E_BUSY;
	c->hash = hash;
	c->reply = v->inbox;
	c->publishes.last = &c->publishes.first;
	c->name_len = (uint32_t)name.n;
	if (name.n > 0)
		memcpy(c->name, name.p, name.n);
	c->next = v->creations;
	v->creations = c;
	v->creating++;
	inbox_push(&v->ss->keeper.inbox, &c->note, NOTE_CREATE);
	*ret = c;
	return STREAM_E_OK;
}

enum stream_error view_find(struct streams_view *v, struct span name, bool may_create, struct stream **ret,
			    struct creation **ret_creation)
{
	struct creation *c = v->creations;
	uint64_t hash;
	uint32_t i;

	*ret = NULL;
	*ret_creation = NULL;
	if (name.n > STREAM_NAME_MAX)
		return STREAM_E_NAME;
	hash = names_hash(&v->names, name);
	while (c != NULL && !(c->hash == hash && span_eq((struct span){(const uint8_t *)c->name, c->name_len}, name)))
		c = c->next;
	if (c != NULL) { /* before the table: later requests stay behind earlier ones */
		*ret_creation = c;
		return STREAM_E_OK;
	}
	if (!names_find(&v->names, hash, name, &i)) {
		if (!catch_up(v))
			return STREAM_E_BUSY;
		if (!names_find(&v->names, hash, name, &i))
			return create(v, name, hash, may_create, ret_creation);
	}
	*ret = streams_at(v->ss, i);
	return STREAM_E_OK;
}

/* What this shard writes about the stream. NULL: no memory. */
static struct stream_local *local_of(const struct streams_view *v, struct stream *s)
{
	struct stream_local *l = atomic_load_explicit(&s->local[v->shard], memory_order_relaxed);

	if (l != NULL)
		return l;
	l = aligned_alloc(CACHE_LINE, sizeof *l);
	if (l == NULL)
		return NULL;
	memset(l, 0, sizeof *l);
	l->stream = s;
	atomic_store_explicit(&s->local[v->shard], l, memory_order_release); /* pairs with wake, streams_info */
	return l;
}

struct view_stream *view_stream(struct streams_view *v, struct stream *s)
{
	struct view_stream *vs = v->streams[s->index];

	if (vs == NULL) {
		vs = calloc(1, sizeof *vs);
		if (vs == NULL)
			return NULL;
		vs->s = s;
		vs->local = local_of(v, s);
		if (vs->local == NULL) {
			free(vs);
			return NULL;
		}
		v->streams[s->index] = vs;
	}
	return vs;
}

/* ---- publishing ---- */

void view_activate(struct streams_view *v, struct stream *s)
{
	if (s->own.active)
		return;
	s->own.active = true;
	s->own.active_next = v->active;
	v->active = s;
}

static struct stream_publish *publish_new(struct streams_view *v, const struct stream_request *r, bool copy, void *user)
{
	size_t n = copy ? r->payload.n + r->publisher.n : 0;
	struct stream_publish *p = malloc(sizeof *p + n);

	if (p == NULL)
		return NULL;
	*p = (struct stream_publish){.reply = v->inbox, .user = user};
	if (copy) {
		p->request = *r;
		p->request.payload.p = p->data;
		p->request.publisher.p = p->data + r->payload.n;
		if (r->payload.n > 0)
			memcpy(p->data, r->payload.p, r->payload.n);
		if (r->publisher.n > 0)
			memcpy(p->data + r->payload.n, r->publisher.p, r->publisher.n);
		p->held = sizeof *p + n;
		count_add(&v->held, p->held);
	}
	p->next_all = v->all_publishes;
	if (p->next_all != NULL)
		p->next_all->prev_all = p;
	v->all_publishes = p;
	count_add(&v->publishing, 1);
	return p;
}

static void publish_free(struct streams_view *v, struct stream_publish *p)
{
	DCHECK((p->prev_all == NULL) == (v->all_publishes == p));
	*(p->prev_all ? &p->prev_all->next_all : &v->all_publishes) = p->next_all;
	if (p->next_all != NULL)
		p->next_all->prev_all = p->prev_all;
	count_add(&v->held, -p->held);
	count_add(&v->publishing, -1u);
	free(p);
}

static enum stream_error check(const struct streams_view *v, const struct stream_request *r)
{
	if (v->failed)
		return STREAM_E_FAILED;
	if (r->payload.n > v->ss->payload_max)
		return STREAM_E_PAYLOAD;
	if (r->publisher.n == 0)
		return r->publisher_seq == 0 ? STREAM_E_OK : STREAM_E_PUBLISHER;
	return r->publisher.n <= STREAM_PUBLISHER_MAX && sequence_name_ok(r->publisher) ? STREAM_E_OK
											: STREAM_E_PUBLISHER;
}

/* Owner: sends the answer on its way. */
static void answer(struct streams_view *v, struct stream_publish *p)
{
	if (p->reply == v->inbox)
		list_add(&v->answered, p);
	else
		inbox_push(p->reply, &p->note, NOTE_ANSWERED);
}

/* Owner: takes a copy in, or parks it, or answers why not. */
static void take_in(struct streams_view *v, struct stream *s, struct stream_publish *p)
{
	struct stream_own *o = &s->own;

	if (v->failed || stream_damage(s) != NULL) {
		p->error = v->failed ? STREAM_E_FAILED : STREAM_E_DAMAGED;
		answer(v, p);
		return;
	}
	view_activate(v, s);
	p->error = o->parked.first != NULL ? STREAM_E_BUSY : stream_append(s, &p->request, &p->answer);
	if (p->error == STREAM_E_OK)
		list_add(&o->acks, p);
	else if (p->error == STREAM_E_BUSY)
		list_add(&o->parked, p);
	else
		answer(v, p);
}

/* The view's stream is known: to its owner. */
static void send_to_owner(struct streams_view *v, struct stream *s, struct stream_publish *p)
{
	p->stream = s;
	if (s->owner == v->shard)
		take_in(v, s, p);
	else
		inbox_push(&v->ss->ports[s->owner].inbox, &p->note, NOTE_PUBLISH);
}

/* The fast way: this shard owns the stream, and there is room. BUSY: there is not. */
static enum stream_error publish_here(struct streams_view *v, struct stream *s, const struct stream_request *r,
				      void *user, struct stream_publish **ret)
{
	struct stream_publish *p;
	enum stream_error e;

	if (stream_damage(s) != NULL)
		return STREAM_E_DAMAGED;
	if (s->own.parked.first != NULL)
		return STREAM_E_BUSY;
	p = publish_new(v, r, false, user);
	if (p == NULL)
		return STREAM_E_BUSY;
	e = stream_append(s, r, &p->answer);
	if (e != STREAM_E_OK) {
		publish_free(v, p);
		return e;
	}
	p->stream = s;
	list_add(&s->own.acks, p);
	view_activate(v, s);
	*ret = p;
	return STREAM_E_OK;
}

enum stream_error streams_publish(struct streams_view *v, const struct stream_request *r, void *user,
				  struct stream_publish **ret)
{
	struct creation *creation;
	struct stream_publish *p;
	struct stream *s;
	enum stream_error e = check(v, r);

	v->refused = NULL;
	if (e == STREAM_E_OK)
		e = view_find(v, r->stream, true, &s, &creation);
	if (e != STREAM_E_OK)
		return e;
	v->refused = s;
	if (s != NULL && s->owner == v->shard) {
		e = publish_here(v, s, r, user, ret);
		if (e != STREAM_E_BUSY)
			return e;
	}
	if (v->held + r->payload.n + NAME_HELD > v->ss->opts.held_max)
		return STREAM_E_BUSY;
	p = publish_new(v, r, true, user);
	if (p == NULL)
		return STREAM_E_BUSY;
	*ret = p;
	if (s != NULL) {
		send_to_owner(v, s, p);
	} else {
		DCHECK(creation != NULL); /* view_find found one or the other */
		list_add(&creation->publishes, p);
	}
	return STREAM_E_OK;
}

const struct stream *streams_view_refused(const struct streams_view *v)
{
	return v->refused;
}

void stream_publish_detach(struct stream_publish *p)
{
	atomic_store_explicit(&p->detached, true, memory_order_relaxed);
	if (p->stream != NULL)
		atomic_fetch_add_explicit(&p->stream->gone, 1, memory_order_relaxed);
}

uint64_t streams_view_held(const struct streams_view *v)
{
	return count_get(&v->held);
}

uint32_t streams_view_publishing(const struct streams_view *v)
{
	return count_get(&v->publishing);
}

void streams_view_read_stats(const struct streams_view *v, struct streams_read_stats *ret)
{
	*ret = (struct streams_read_stats){
		.bytes = count_get(&v->turns.used),
		.most = count_get(&v->turns.most),
		.waiting = count_get(&v->turns.waiting),
		.taken_back = count_get(&v->turns.taken_back),
	};
}

uint32_t streams_view_cursors(const struct streams_view *v)
{
	return count_get(&v->cursors);
}

/* ---- streams that this shard owns ---- */

/* This shard's cursors that wait for the stream. */
static void wake_here(struct streams_view *v, struct stream *s)
{
	struct view_stream *vs = v->streams[s->index];

	vs->armed = false;
	while (vs->waiting != NULL)
		cursor_set_ready(vs->waiting);
}

/* The edge has moved: tells the shards that wait for it. */
static void wake(struct streams_view *v, struct stream *s)
{
	atomic_thread_fence(
		memory_order_seq_cst); /* pairs with the one in stream_cursor.c: the edge is stored before `wanted` is read */
	for (unsigned i = 0; i < v->ss->opts.shards; i++) {
		struct stream_local *l = atomic_load_explicit(&s->local[i],
							      memory_order_acquire); /* pairs with local_of */

		if (l == NULL || !atomic_load_explicit(&l->wanted, memory_order_relaxed) ||
		    !atomic_exchange_explicit(&l->wanted, false, memory_order_acq_rel))
			continue;
		if (i == v->shard)
			wake_here(v, s);
		else
			inbox_push(&v->ss->ports[i].inbox, &l->note, NOTE_EDGE);
	}
}

static void acknowledge(struct streams_view *v, struct stream *s)
{
	uint64_t pos, offset;

	edge_get(&s->durable, &pos, &offset);
	while (s->own.acks.first != NULL && s->own.acks.first->answer.offset <= offset)
		answer(v, list_take(&s->own.acks));
}

/* Parked publishes whose clients have gone hold no turn and no memory: none of them is in the log yet. Each pass over
 * the list is paid for by those who have gone since the last one. */
static void drop_gone(struct stream *s, struct streams_view *v)
{
	struct stream_own *o = &s->own;
	uint32_t gone = atomic_load_explicit(&s->gone, memory_order_relaxed);

	if (gone - o->gone_seen <= o->parked.n / 8)
		return;
	o->gone_seen = gone;
	for (uint32_t n = o->parked.n; n > 0; n--) {
		struct stream_publish *p = list_take(&o->parked);

		if (atomic_load_explicit(&p->detached, memory_order_relaxed)) {
			p->error = STREAM_E_BUSY;
			answer(v, p);
		} else {
			list_add(&o->parked, p);
		}
	}
}

static void unpark(struct stream *s, struct streams_view *v)
{
	struct stream_own *o = &s->own;

	drop_gone(s, v);
	while (o->parked.first != NULL) {
		struct stream_publish *p = o->parked.first;

		p->error = stream_append(s, &p->request, &p->answer);
		if (p->error == STREAM_E_BUSY)
			return;
		list_take(&o->parked);
		if (p->error == STREAM_E_OK)
			list_add(&o->acks, p);
		else
			answer(v, p);
	}
}

static void refuse_all(struct streams_view *v, struct publish_list *l, enum stream_error e)
{
	struct stream_publish *p;

	while ((p = list_take(l)) != NULL) {
		p->error = e;
		answer(v, p);
	}
}

/* The stream's log is lost, and the journal has dropped what was on its way there. What was durable before counts. */
static void lose(struct streams_view *v, struct stream *s)
{
	stream_advance(s);
	acknowledge(v, s);
	stream_set_damage(s, jlog_why(s->log));
	refuse_all(v, &s->own.acks, STREAM_E_DAMAGED);
	refuse_all(v, &s->own.parked, STREAM_E_DAMAGED);
	wake(v, s); /* live cursors end */
}

/* One turn of an owned stream. False: there is nothing more to be done before something happens to it. */
static bool turn_stream(struct streams_view *v, struct stream *s)
{
	struct stream_own *o = &s->own;
	bool moved;

	if (stream_damage(s) != NULL)
		return false;
	if (stream_is_lost(s)) {
		lose(v, s);
		return false;
	}
	moved = stream_advance(s);
	if (o->parked.first != NULL)
		unpark(s, v);
	stream_submit(s, v->port);
	if (s->durability == STREAM_MEMORY)
		moved = stream_advance(s) || moved;
	if (moved)
		wake(v, s);
	acknowledge(v, s);
	if (o->sweeping)
		o->sweeping = !late_sweep(&o->late, edge_pos(&s->first), SWEEP_LEAVES);
	stream_count(s);
	return o->pending_count > 0 || o->acks.first != NULL || o->parked.first != NULL || o->sweeping ||
	       o->trimmed < o->trim_offset || (s->durability != STREAM_MEMORY && o->sub_offset < o->next_offset);
}

static void turn_owned(struct streams_view *v)
{
	struct stream *s = v->active;

	v->active = NULL;
	while (s != NULL) {
		struct stream *next = s->own.active_next;

		s->own.active = false;
		if (turn_stream(v, s))
			view_activate(v, s);
		s = next;
	}
}

/* The journal has failed: what was durable before counts, everything else is refused. */
static void fail_owned(struct streams_view *v)
{
	v->failed = true;
	for (uint32_t i = 0; i < streams_published(v->ss); i++) {
		struct stream *s = streams_at(v->ss, i);

		if (s->owner != v->shard)
			continue;
		if (stream_advance(s))
			wake(v, s);
		acknowledge(v, s);
		refuse_all(v, &s->own.acks, STREAM_E_FAILED);
		refuse_all(v, &s->own.parked, STREAM_E_FAILED);
		s->own.active = false;
	}
	v->active = NULL;
}

/* ---- mail ---- */

static void created(struct streams_view *v, struct creation *c)
{
	struct creation **link = &v->creations;
	struct stream_publish *p;

	while (*link != c)
		link = &(*link)->next;
	*link = c->next;
	v->creating--;
	while ((p = list_take(&c->publishes)) != NULL) {
		if (c->error == STREAM_E_OK) {
			send_to_owner(v, c->stream, p);
		} else {
			p->error = c->error;
			list_add(&v->answered, p);
		}
	}
	while (c->cursors != NULL) {
		struct stream_cursor *cursor = c->cursors;

		c->cursors = cursor->wait_next;
		cursor_created(cursor, c->stream, c->error);
	}
	free(c);
}

static void trim(struct streams_view *v, struct stream *s)
{
	uint64_t below = s->trim_to;

	atomic_store_explicit(&s->trim_sent, false, memory_order_release); /* pairs with the keeper's */
	if (v->failed)
		return;
	if (stream_advance(s)) { /* blocks are parted at segments by now */
		wake(v, s);
		acknowledge(v, s);
	}
	if (stream_damage(s) != NULL)
		return; /* what is left of it stays */
	stream_trim(s, below);
	view_activate(v, s);
}

static void on_note(struct streams_view *v, struct note *n)
{
	struct stream_publish *p;
	struct stream_cursor *c;

	switch (n->kind) {
	case NOTE_PUBLISH:
		p = container_of(n, struct stream_publish, note);
		take_in(v, p->stream, p);
		break;
	case NOTE_ANSWERED:
		list_add(&v->answered, container_of(n, struct stream_publish, note));
		break;
	case NOTE_CREATED:
		created(v, container_of(n, struct creation, note));
		break;
	case NOTE_PLAN:
		c = container_of(n, struct stream_cursor, note);
		cursor_serve(c);
		inbox_push(c->view->inbox, n, NOTE_PLANNED);
		break;
	case NOTE_PLANNED:
		cursor_planned(container_of(n, struct stream_cursor, note));
		break;
	case NOTE_FETCHED:
		cursor_fetched(container_of(container_of(n, struct fetch, note), struct stream_cursor, fetch));
		break;
	case NOTE_EDGE:
		wake_here(v, container_of(n, struct stream_local, note)->stream);
		break;
	case NOTE_TRIM:
		trim(v, container_of(n, struct stream, trim));
		break;
	case NOTE_CREATE:
	case NOTE_FETCH:
		CHECK(false); /* the workers' */
	}
}

/* ---- the turn ---- */

static void call_back(struct streams_view *v, const struct streams_view_ops *ops, void *ctx)
{
	struct stream_publish *p;

	while ((p = list_take(&v->answered)) != NULL) {
		struct stream_answer a = p->answer;
		enum stream_error e = p->error;
		bool detached = atomic_load_explicit(&p->detached, memory_order_relaxed);
		void *user = p->user;

		v->refused = p->stream;
		publish_free(v, p);
		if (detached)
			continue;
		if (e == STREAM_E_OK)
			ops->published(ctx, user, &a);
		else
			ops->refused(ctx, user, e);
	}
	for (uint32_t n = v->ready.n; n > 0 && v->ready.first != NULL; n--) {
		struct stream_cursor *c = v->ready.first;

		cursor_unqueue(c);
		if (!c->wants)
			continue;
		c->wants = false;
		ops->ready(ctx, c->user);
	}
}

void streams_view_turn(struct streams_view *v, const struct streams_view_ops *ops, void *ctx)
{
	struct note *n = inbox_take(v->inbox);

	while (n != NULL) {
		struct note *next = n->next;

		on_note(v, n);
		n = next;
	}
	if (!v->failed && journal_has_failed(v->ss->journal))
		fail_owned(v);
	turn_owned(v);
	turns_run(&v->turns, ops, ctx);
	call_back(v, ops, ctx);
	if (v->active != NULL && !v->failed)
		turn_owned(v); /* what the callbacks have published */
}

bool streams_view_has_work(struct streams_view *v)
{
	if (!inbox_is_empty(v->inbox) || v->answered.first != NULL || v->ready.n > 0 || turns_have_work(&v->turns))
		return true;
	if (v->failed)
		return false;
	for (const struct stream *s = v->active; s != NULL; s = s->own.active_next)
		if (stream_can_advance(s) || s->own.sweeping || stream_is_lost(s) ||
		    stream_state_can_turn(s, v->port) || (s->own.parked.first != NULL && s->own.pending_count == 0))
			return true;
	return journal_has_failed(v->ss->journal);
}

/* ---- making ---- */

struct streams_view *streams_view_new(struct streams *ss, unsigned shard, struct doorbell *bell)
{
	struct streams_view *v = calloc(1, sizeof *v);

	CHECK(shard < ss->opts.shards);
	if (v == NULL)
		return NULL;
	v->ss = ss;
	v->shard = shard;
	v->inbox = &ss->ports[shard].inbox;
	v->answered.last = &v->answered.first;
	turns_init(&v->turns, ss->opts.read_max ? ss->opts.read_max : UINT64_MAX, ss->piece_max);
	v->streams = calloc(ss->capacity, sizeof *v->streams);
	if (v->streams == NULL || names_init(&v->names, ss->hash_key, view_name, ss) != 0 ||
	    journal_port_new(ss->journal, bell, PORT_DEPTH, &v->port) != 0) {
		names_done(&v->names);
		free(v->streams);
		free(v);
		return NULL;
	}
	atomic_store_explicit(&v->inbox->bell, bell, memory_order_release); /* pairs with inbox_push */
	return v;
}

void streams_view_free(struct streams_view *v)
{
	if (v == NULL)
		return;
	atomic_store_explicit(&v->inbox->bell, NULL, memory_order_release);
	while (v->all_cursors != NULL)
		cursor_free(v->all_cursors);
	while (v->all_publishes != NULL)
		publish_free(v, v->all_publishes);
	while (v->creations != NULL) {
		struct creation *c = v->creations;

		v->creations = c->next;
		free(c);
	}
	for (uint32_t i = 0; i < v->ss->capacity; i++) {
		if (v->streams[i] != NULL && v->streams[i]->tail != NULL)
			hold_put(v->streams[i]->tail);
		free(v->streams[i]);
	}
	names_done(&v->names);
	free(v->streams);
	free(v);
}
