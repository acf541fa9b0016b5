/* Whose turn it is to read what is not at hand, and the memory that reading takes. Runs on the shard.
 *
 * What a subscriber needs next may have to be read from disk or put together from several frames.
 * Either takes memory until the subscriber's connection has taken the bytes. All of this memory, of
 * all subscribers of a shard, stays within `max` bytes:
 *
 *   stream_cursor_next: CURSOR_COLD --stream_cursor_read--> waits --turns_run--> has the turn
 *      ^                                                                             | reads
 *      |<-- given, or given back <-- holds a piece (rests while nobody takes it) <---+
 *
 * A turn reserves as much as the largest piece may take; when the piece is there, its own size is
 * charged instead. Pieces that several subscribers of the shard hold are charged once.
 *
 * Fairness. Turns go round the clients' addresses, then round the connections of an address, then to
 * the cursors of a connection in the order of their requests. A connection has TURNS_OUT turns at the
 * most, so that one with thousands of subscribers does not read ahead for all of them. It keeps such a
 * place while it takes no output, because its other cursors could give their bytes to nobody either.
 *
 * When memory is short, pieces that rest are taken back, the longest resting first: their subscribers
 * read them again when they can take them. So a subscriber that takes nothing keeps nobody waiting.
 * Invariants: a cursor waits in one list at most; `used` is the sum of all reservations and charged
 * holds; with nothing used a turn is given however much it needs, so a piece larger than `max` is
 * read, alone.
 */
#include "queue/stream_view.h"

#include <stdlib.h>

static unsigned bucket_of(uint64_t address, uint64_t connection)
{
	return (unsigned)((address ^ connection * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd) >> 56);
}
_Static_assert(TURNS_BUCKETS == 256, "a bucket is eight bits of a hash");

void turns_init(struct turns *t, uint64_t max, uint32_t need)
{
	*t = (struct turns){.max = max, .need = need};
	TAILQ_INIT(&t->ready);
	for (unsigned i = 0; i < TURNS_RESTING; i++)
		TAILQ_INIT(&t->resting[i]);
}

/* ---- connections and addresses ---- */

static struct turn_group *group_get(struct turns *t, uint64_t address)
{
	struct turn_group **bucket = &t->group[bucket_of(address, 0)], *g = *bucket;

	while (g != NULL && g->address != address)
		g = g->next;
	if (g == NULL) {
		g = calloc(1, sizeof *g);
		if (g == NULL)
			return NULL;
		g->address = address;
		TAILQ_INIT(&g->ready);
		g->next = *bucket;
		*bucket = g;
	}
	g->lists++;
	return g;
}

static void group_put(struct turns *t, struct turn_group *g)
{
	struct turn_group **link = &t->group[bucket_of(g->address, 0)];

	if (--g->lists > 0)
		return;
	while (*link != g)
		link = &(*link)->next;
	*link = g->next;
	free(g);
}

static struct turn_list *list_get(struct turns *t, const uint64_t reader[2])
{
	struct turn_list **bucket = &t->list[bucket_of(reader[0], reader[1])], *l = *bucket;

	while (l != NULL && (l->reader[0] != reader[0] || l->reader[1] != reader[1]))
		l = l->next;
	if (l == NULL) {
		l = calloc(1, sizeof *l);
		if (l != NULL)
			l->group = group_get(t, reader[0]);
		if (l == NULL || l->group == NULL) {
			free(l);
			return NULL;
		}
		l->reader[0] = reader[0];
		l->reader[1] = reader[1];
		TAILQ_INIT(&l->waiting);
		l->next = *bucket;
		*bucket = l;
	}
	l->users++;
	return l;
}

static void list_put(struct turns *t, struct turn_list *l)
{
	struct turn_list **link = &t->list[bucket_of(l->reader[0], l->reader[1])];

	if (--l->users > 0)
		return;
	DCHECK(!l->ready && l->out == 0);
	while (*link != l)
		link = &(*link)->next;
	*link = l->next;
	group_put(t, l->group);
	free(l);
}

/* Keeps the list among those that are ready exactly if its first cursor may have a turn. */
static void note(struct turns *t, struct turn_list *l)
{
	const struct stream_cursor *first = TAILQ_FIRST(&l->waiting);
	bool ready = first != NULL && (first->has_place || l->out < TURNS_OUT);
	struct turn_group *g = l->group;

	if (ready == l->ready)
		return;
	l->ready = ready;
	if (ready) {
		if (TAILQ_EMPTY(&g->ready))
			TAILQ_INSERT_TAIL(&t->ready, g, entry);
		TAILQ_INSERT_TAIL(&g->ready, l, entry);
	} else {
		TAILQ_REMOVE(&g->ready, l, entry);
		if (TAILQ_EMPTY(&g->ready))
			TAILQ_REMOVE(&t->ready, g, entry);
	}
}

/* The cursor whose turn it is. Its address and its connection are the last of all now. */
static struct stream_cursor *next_waiting(struct turns *t)
{
	struct turn_group *g = TAILQ_FIRST(&t->ready);
	struct turn_list *l = TAILQ_FIRST(&g->ready);

	TAILQ_REMOVE(&t->ready, g, entry);
	TAILQ_INSERT_TAIL(&t->ready, g, entry);
	TAILQ_REMOVE(&g->ready, l, entry);
	TAILQ_INSERT_TAIL(&g->ready, l, entry);
	return TAILQ_FIRST(&l->waiting);
}

/* ---- memory ---- */

static bool fits(const struct turns *t)
{
	return t->used == 0 || t->used + t->need <= t->max;
}

void turns_charge(struct turns *t, uint64_t bytes)
{
	count_add(&t->used, bytes);
	if (t->used > t->most)
		count_add(&t->most, t->used - t->most);
}

void turns_discharge(struct turns *t, uint64_t bytes)
{
	DCHECK(bytes <= t->used);
	count_add(&t->used, -bytes);
}

/* ---- a cursor's turn ---- */

static void give_turn(struct turns *t, struct stream_cursor *c)
{
	DCHECK(c->turn != TURN_HELD && c->reserved == 0);
	c->turn = TURN_HELD;
	c->reserved = t->need;
	turns_charge(t, c->reserved);
	if (!c->has_place) {
		c->has_place = true;
		c->list->out++;
	}
}

void turn_ask(struct stream_cursor *c)
{
	struct turns *t = &c->view->turns;

	if (c->turn != TURN_NONE)
		return;
	if (c->list == NULL)
		c->list = list_get(t, c->reader);
	if (c->list == NULL) {
		cursor_end(c, STREAM_E_BUSY, "");
		return;
	}
	if (t->waiting == 0 && (c->has_place || c->list->out < TURNS_OUT) && fits(t)) {
		give_turn(t, c);
		return;
	}
	c->turn = TURN_WAITS;
	if (c->has_place)
		TAILQ_INSERT_HEAD(&c->list->waiting, c, turn_entry);
	else
		TAILQ_INSERT_TAIL(&c->list->waiting, c, turn_entry);
	count_add(&t->waiting, 1);
	note(t, c->list);
}

void turn_settle(struct stream_cursor *c)
{
	turns_discharge(&c->view->turns, c->reserved);
	c->reserved = 0;
	if (c->turn == TURN_HELD)
		c->turn = TURN_NONE;
}

void turn_leave_place(struct stream_cursor *c)
{
	if (!c->has_place)
		return;
	c->has_place = false;
	c->list->out--;
	note(&c->view->turns, c->list);
}

void turn_stop_waiting(struct stream_cursor *c)
{
	struct turns *t = &c->view->turns;

	if (c->turn != TURN_WAITS)
		return;
	c->turn = TURN_NONE;
	TAILQ_REMOVE(&c->list->waiting, c, turn_entry);
	count_add(&t->waiting, -(uint64_t)1);
	note(t, c->list);
}

void turn_end(struct stream_cursor *c)
{
	turn_stop_waiting(c);
	turn_settle(c);
	turn_leave_place(c);
}

void turn_forget(struct stream_cursor *c)
{
	turn_stir(c);
	turn_end(c);
	if (c->list != NULL)
		list_put(&c->view->turns, c->list);
	c->list = NULL;
}

/* ---- pieces that nobody takes for now ---- */

void turn_rest(struct stream_cursor *c, enum turn_resting what)
{
	DCHECK(c->resting == 0 && c->turn != TURN_WAITS);
	c->resting = (uint8_t)(what + 1);
	TAILQ_INSERT_TAIL(&c->view->turns.resting[what], c, turn_entry);
}

void turn_stir(struct stream_cursor *c)
{
	if (c->resting == 0)
		return;
	TAILQ_REMOVE(&c->view->turns.resting[c->resting - 1], c, turn_entry);
	c->resting = 0;
}

/* Takes back what has rested the longest. False: there is nothing. */
static bool take_back(struct turns *t, enum turn_resting what, const struct streams_view_ops *ops, void *ctx)
{
	struct stream_cursor *c = TAILQ_FIRST(&t->resting[what]);

	if (c == NULL || ops->give_back == NULL)
		return false;
	turn_stir(c);
	count_add(&t->taken_back, 1);
	ops->give_back(ctx, c->user);
	return true;
}

/* ---- the shard's turn ---- */

void turns_run(struct turns *t, const struct streams_view_ops *ops, void *ctx)
{
	while (!TAILQ_EMPTY(&t->ready)) {
		struct stream_cursor *c;

		if (!fits(t)) {
			if (!take_back(t, TURNS_RESTING_PIECE, ops, ctx))
				break;
			continue;
		}
		c = next_waiting(t);
		turn_stop_waiting(c);
		give_turn(t, c);
		note(t, c->list);
		if (c->wants)
			cursor_set_ready(c);
	}
}

bool turns_have_work(const struct turns *t)
{
	return !TAILQ_EMPTY(&t->ready) && (fits(t) || !TAILQ_EMPTY(&t->resting[TURNS_RESTING_PIECE]));
}
