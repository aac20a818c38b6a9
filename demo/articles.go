package demo

import "time"

// firstArticles is what the CMS holds when it starts: a day at a bakery, told
// by the people who work there, one article every 47 minutes until now.
func firstArticles(now time.Time) []Article {
	day := []Article{
		{Slug: "the-first-loaves", Title: "The first loaves are out", Body: `The oven was lit at three and by half past five the first forty loaves stood on the racks, crackling as they cooled. Bakers call it singing. Open the side door on Mill Lane and you can hear it from the street.

Today's country loaf has a little more rye than yesterday's. The new flour from Hadley's mill drinks more water than the old, so Marta gave the dough another half hour, and it thanked her with a darker crust.

We open at seven. If you would like yours sliced, please ask before eight: after that the slicer is promised to the school.`},
		{Slug: "rye-is-late", Title: "Rye is late, and that is a good sign", Body: `The rye went into the oven twenty minutes behind the board. Nobody forgot it. The starter was slow this morning after a cold night, and a slow starter makes a better loaf than a hurried baker.

It will be on the shelf around nine. Those who ordered by telephone need not call again; your name is on the paper, and the paper is on the bag.`},
		{Slug: "a-tray-of-plums", Title: "A tray of plums from the Almgrens", Body: `Ingrid Almgren came by with eleven kilos of plums from the tree behind the church, and would take nothing for them but two cardamom buns and a cup of coffee.

So there is plum cake today, cut in squares, for as long as the tray lasts. Last year that was until a quarter to two.

The stones go to the school, where the second form wants to find out which of them will grow.`},
		{Slug: "the-afternoon-bake", Title: "What comes out of the oven at three", Body: `Baguettes at three, as ever. Twelve fewer than on other days, because half of the oven belongs to Samir this afternoon: he is baking his examination piece, a braided wheat loaf as long as his arm, and has asked us not to look until it is done.

Cheese straws at half past three. Cinnamon knots when they are ready, which the knots decide.`},
		{Slug: "bread-of-yesterday", Title: "Yesterday's bread, and where it goes", Body: `Nothing that was baked here is thrown away. What is left at six goes to the soup kitchen on Harbour Street, and what they cannot use comes back on Thursdays as croutons, rusks and a bread pudding that has its own following.

Last week it was nineteen loaves, three bags of rolls, and one very large gingerbread horse whose owner never came.`},
	}
	for i := range day {
		day[i].ID = string(rune('1' + i))
		day[i].Version = 1
		day[i].UpdatedAt = now.UTC().Add(-time.Duration(len(day)-i) * 47 * time.Minute).Truncate(time.Second)
	}
	return day
}
